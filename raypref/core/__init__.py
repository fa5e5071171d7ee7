"""Pure mathematics: schedules, transitions, rollout records, losses. Imports torch and nothing of raypref above it."""
