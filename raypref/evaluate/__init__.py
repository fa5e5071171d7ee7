"""Questions about a policy and their answers, one file each."""
