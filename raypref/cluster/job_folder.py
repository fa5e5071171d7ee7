"""Whether this process is a job with a working folder of its own. Told without Ray, whose import takes a second."""

import json
import os


def in_job_folder() -> bool:
    """Whether this process is a job that works in a copy of files that Ray has made for it."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return "working_dir" in job.get("runtime_env", {})
