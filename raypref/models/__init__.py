"""Model families, one file each; the only place that imports diffusers and peft."""

import transformers

# Loading chatter (progress bars, notes on components that are not used here) would bury the progress of a run.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
