#!/bin/bash
# CONFIG FOLDER NAME [overrides]: trains a config as the run FOLDER/NAME, or goes on with that run where there is one. For jobs that are
# started again by themselves.
set -euo pipefail
config=$1 folder=$2 name=$3
if [ -e "$folder/$name/summary.json" ]; then   # its cluster was lost just after its end
  echo "$folder/$name has come to its end"
  exit 0
fi
if [ -e "$folder/$name/config.toml" ]; then
  exec raypref resume "$folder/$name"
fi
exec raypref train "$config" run.output_dir="$folder" run.name="$name" "${@:4}"
