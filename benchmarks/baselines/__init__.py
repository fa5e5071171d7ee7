"""How published loops spend their compute, in our own words, on the same models, prompts and noise."""
