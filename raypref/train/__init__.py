"""The training loop and the three roles it joins: sampler, scorer, learner. Runs without Ray."""
