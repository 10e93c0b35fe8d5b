"""The launcher's file for EC2: what Ray and EC2 themselves say of it, and that it opens nothing and copies no key."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from cluster_files import CLUSTER, ROOT, SECRET, documents
from ray.autoscaler._private.util import prepare_config, validate_config  # what `ray up` itself calls first

from ccp_ray.config import load_config
from jobs.pipeline import PipelineConfig, recipe_file

FILE = CLUSTER / "aws/cluster.yaml"
PREPARED: dict[str, Any] = prepare_config(documents(FILE)[0])
TYPES: dict[str, dict[str, Any]] = PREPARED["available_node_types"]
MACHINE: Any = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
WORKERS = {name: each for name, each in TYPES.items() if name != PREPARED["head_node_type"]}


def test_ray_takes_it() -> None:
    validate_config(PREPARED)
    assert set(documents(FILE)[0]) <= set(PREPARED)


def test_ray_refuses_a_misspelt_field() -> None:
    import jsonschema

    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config({**documents(FILE)[0], "idle_timeout_minute": 5}))


@pytest.mark.parametrize("name", TYPES)
def test_ec2_takes_its_machines(name: str) -> None:
    """By EC2's own model of RunInstances, without a request; InstanceType and the like are strings there."""
    machine = {**TYPES[name]["node_config"], "MinCount": 1, "MaxCount": 1}
    assert ParamValidator().validate(machine, MACHINE).generate_report() == ""


@pytest.mark.parametrize("name", TYPES)
def test_nothing_is_open_and_no_key_is_copied(name: str) -> None:
    machine = TYPES[name]["node_config"]
    assert machine["SecurityGroupIds"]  # without it Ray makes a group with SSH open to 0.0.0.0/0
    assert "security_group" not in PREPARED["provider"]
    assert machine["IamInstanceProfile"]["Arn"].startswith("arn:aws:iam::111122223333:instance-profile/ccp-ray-")
    assert machine["MetadataOptions"]["HttpTokens"] == "required"
    assert all(
        disk["Ebs"]["Encrypted"] and disk["Ebs"]["DeleteOnTermination"] for disk in machine["BlockDeviceMappings"]
    )


def test_workers_are_spot_and_go_when_idle_and_the_head_is_not() -> None:
    assert all(each["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for each in WORKERS.values())
    assert all(each["min_workers"] == 0 for each in WORKERS.values())
    assert "InstanceMarketOptions" not in TYPES["head"]["node_config"]
    assert TYPES["head"]["resources"] == {"CPU": 0}
    assert PREPARED["max_workers"] == sum(each["max_workers"] for each in WORKERS.values())
    assert PREPARED["idle_timeout_minutes"] <= 10
    assert PREPARED["provider"]["cache_stopped_nodes"] is False


def test_the_pretraining_recipe_finds_its_gpus() -> None:
    asked = load_config(PipelineConfig, [recipe_file("xlmr_base_8xh100")]).pretrain.resources
    assert isinstance(asked.workers, int)
    room = TYPES["h100"]["resources"]
    assert room["GPU"] == asked.workers
    assert room["CPU"] >= asked.workers * asked.cpus_per_worker


def test_every_node_has_the_code_and_the_token() -> None:
    mounts = PREPARED["file_mounts"]
    token = mounts.pop("~/.ray/auth_token")
    assert token == "~/.ray/auth_token"
    assert all((ROOT / source).exists() and target == f"~/ccp-ray/{source}" for target, source in mounts.items())
    assert {"ccp_ray", "jobs", "eval", "scripts", "pyproject.toml", "constraints.txt", "README.md"} <= set(
        mounts.values()
    )
    starts = [
        line for which in ("head", "worker") for line in PREPARED[f"{which}_start_ray_commands"] if "start" in line
    ]
    assert len(starts) == 2
    assert all("export RAY_AUTH_MODE=token" in line for line in starts)
    assert "chmod 600 ~/.ray/auth_token" in PREPARED["setup_commands"]
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_commands_are_shell() -> None:
    kinds = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    for command in (line for kind in kinds for line in PREPARED[kind]):
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_no_secret_is_written_down() -> None:
    text = FILE.read_text()
    assert "AWS_SECRET" not in text
    assert "AKIA" not in text
    assert not [key for key in PREPARED["provider"] if SECRET.search(key)]


def _statements(name: str) -> dict[str, dict[str, Any]]:
    policy = json.loads((CLUSTER / "aws" / name).read_text())
    assert policy["Version"] == "2012-10-17"
    return {each["Sid"]: each for each in policy["Statement"]}


def test_the_store_policy_reaches_one_bucket() -> None:
    statements = _statements("store-policy.json")
    assert {each["Resource"] for each in statements.values()} == {"arn:aws:s3:::BUCKET", "arn:aws:s3:::BUCKET/*"}
    actions = {action for each in statements.values() for action in each["Action"]}
    assert actions >= {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"}
    assert not [action for action in actions if "*" in action]


def test_the_head_ends_only_its_own_machines() -> None:
    statements = _statements("head-policy.json")
    ends = statements["EndOwnMachines"]
    assert ends["Action"] == "ec2:TerminateInstances"
    assert ends["Condition"]["StringEquals"] == {"ec2:ResourceTag/ray-cluster-name": PREPARED["cluster_name"]}
    assert statements["GiveWorkersTheirRole"]["Resource"].endswith(":role/ccp-ray-worker")
    region = statements["StartMachines"]["Condition"]["StringEquals"]["aws:RequestedRegion"]
    assert region == PREPARED["provider"]["region"]
