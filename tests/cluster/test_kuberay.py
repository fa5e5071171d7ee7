"""The Kubernetes manifests and the image fit one another, and the operator's schema where there is one at hand."""

import os
import re
import stat
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from raypref import __version__
from raypref.config import load_experiment

FOLDER = Path("deploy/kuberay")
CLUSTER = yaml.safe_load((FOLDER / "raycluster.yaml").read_text())
JOB = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
GROUPS = {group["groupName"]: group for group in CLUSTER["spec"]["workerGroupSpecs"]}
PINS = dict(line.split("==") for line in Path("constraints.txt").read_text().splitlines() if "==" in line)


def pods(spec):
    return [spec["headGroupSpec"]["template"]["spec"], *(g["template"]["spec"] for g in spec["workerGroupSpecs"])]


def test_a_job_brings_the_same_cluster():
    assert JOB["spec"]["rayClusterSpec"] == CLUSTER["spec"]


def test_the_cluster_grows_and_shrinks():
    spec = CLUSTER["spec"]
    assert (CLUSTER["apiVersion"], CLUSTER["kind"]) == ("ray.io/v1", "RayCluster")
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"  # which alone grows by labels
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in GROUPS.values():
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert {name: group["labels"]["role"] for name, group in GROUPS.items()} == {
        "learner": "learner",
        "sampler": "sampler",
    }


def test_the_learner_is_never_on_spot():
    spot = {name: group["labels"]["ray.io/market-type"] == "spot" for name, group in GROUPS.items()}
    chosen = {name: "SPOT" in group["template"]["spec"]["nodeSelector"].values() for name, group in GROUPS.items()}
    assert spot == chosen == {"learner": False, "sampler": True}


def test_pods_have_what_ray_needs():
    for pod in pods(CLUSTER["spec"]):
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert mounts["/mnt/raypref"]["persistentVolumeClaim"]["claimName"] == storage()["metadata"]["name"]
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert limits["memory"] == requests["memory"]
        assert limits.get("nvidia.com/gpu") == requests.get("nvidia.com/gpu")
        for value in (*requests.values(), *limits.values(), *(each["value"] for each in container.get("env", ()))):
            assert isinstance(value, str)


def test_the_object_store_fits_into_shared_memory():
    """Of its own accord Ray takes 30 % of a pod's memory, whatever /dev/shm holds, and a disk where that is small."""
    spec = CLUSTER["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (shm,) = (volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume)
        store = int(group["rayStartParams"]["object-store-memory"])
        memory = pod["containers"][0]["resources"]["limits"]["memory"]
        assert gibibytes(shm) / 2 < store < gibibytes(shm) < gibibytes(memory) / 2


def gibibytes(amount):
    return int(amount.removesuffix("Gi")) * 2**30


def storage():
    claim = yaml.safe_load((FOLDER / "storage.yaml").read_text())
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    return claim


def test_image_and_versions_agree():
    dockerfile = Path("deploy/Dockerfile").read_text()
    assert CLUSTER["spec"]["rayVersion"] == PINS["ray"]
    assert re.search(r"^FROM rayproject/ray:(\S+)-py311$", dockerfile, re.MULTILINE).group(1) == PINS["ray"]
    images = {pod["containers"][0]["image"] for pod in pods(CLUSTER["spec"])}
    assert images == {f"raypref:{__version__}"}
    assert f"--tag raypref:{__version__} ." in dockerfile


def test_the_image_takes_what_exists_and_docker_sees():
    dockerfile = Path("deploy/Dockerfile").read_text()
    taken = [name for line in re.findall(r"^COPY --\S+ (.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()]
    seen = Path(".dockerignore").read_text().splitlines()
    assert "constraints.txt" in taken
    assert seen[0] == "*"
    for name in taken:
        assert Path(name).exists(), name
        assert f"!{name}" in seen
    assert "--constraint constraints.txt --editable ." in dockerfile
    # WORKDIR alone would make it root's, and pip, which is not root there, notes in it what it installs.
    assert re.search(r"^RUN mkdir (\S+)\nWORKDIR \1$", dockerfile, re.MULTILINE)


def test_the_jobs_command_trains_and_later_goes_on(tmp_path):
    _, script, config, folder, name = JOB["spec"]["entrypoint"].split()
    assert folder.startswith("/mnt/raypref/")
    assert load_experiment(Path(config)).run.name == name
    command = tmp_path / "raypref"
    command.write_text('#!/bin/bash\necho "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)

    def called():
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        words = ["bash", script, config, str(tmp_path / "runs"), name, "run.seed=1"]
        return subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout

    assert called() == f"train {config} run.output_dir={tmp_path}/runs run.name={name} run.seed=1\n"
    (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / name / "config.toml").touch()
    assert called() == f"resume {tmp_path}/runs/{name}\n"
    (tmp_path / "runs" / name / "summary.json").touch()
    assert called() == f"{tmp_path}/runs/{name} has come to its end\n"


def strict(schema):
    """The schema of a custom resource as a JSON schema that refuses what it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: strict(value) for key, value in schema.items()}
    if told.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    if isinstance(told.get("properties"), dict) and not told.get("x-kubernetes-preserve-unknown-fields"):
        told.setdefault("additionalProperties", False)
    return told


def resource_schema(text):
    """Of the stored version of a CustomResourceDefinition."""
    versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]
    whole = next(version for version in versions if version["name"] == "v1")["schema"]["openAPIV3Schema"]
    schema = strict(whole)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.mark.parametrize(("manifest", "variable"), [(CLUSTER, "RAYCLUSTER_CRD"), (JOB, "RAYJOB_CRD")])
def test_it_satisfies_the_operators_schema(manifest, variable):
    if variable not in os.environ:
        pytest.skip(f"{variable} names no file: KubeRay has it in ray-operator/config/crd/bases")
    jsonschema.validate(manifest, resource_schema(Path(os.environ[variable]).read_text()))


SMALL_CRD = """
spec:
  versions:
    - name: v1alpha1
    - name: v1
      schema:
        openAPIV3Schema:
          type: object
          properties:
            metadata: {type: object}
            spec:
              type: object
              required: [count]
              properties:
                count: {type: integer}
                limit: {x-kubernetes-int-or-string: true, pattern: x}
                free: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {}}
"""


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ({"count": 1, "limit": "4Gi", "free": {"any": 1}}, True),
        ({"count": 1, "limit": 4}, True),
        ({"count": "1"}, False),
        ({"count": 1, "cuont": 1}, False),
        ({}, False),
    ],
)
def test_the_schema_is_read_strictly(spec, fits):
    validator = jsonschema.Draft202012Validator(resource_schema(SMALL_CRD))
    assert validator.is_valid({"metadata": {"name": "x"}, "spec": spec}) == fits
