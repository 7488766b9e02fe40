"""Settings that would change numbers, drop work or show a credential are refused by name."""

import inspect
import shutil

import lightning as L
import pytest

from refusal_lightning.cli import main
from refusal_lightning.config import StoreConfig, TrainerConfig
from refusal_lightning.distributed.trainer import build_trainer
from refusal_lightning.errors import UserError
from refusal_lightning.models import load_chat_model
from refusal_lightning.store.backend.open import open_backend

ARGUMENTS = [name for name in inspect.signature(L.Trainer.__init__).parameters if name != "self"]
HARMLESS = {
    "benchmark": True,
    "default_root_dir": "profiles",
    "detect_anomaly": False,
    "deterministic": "warn",
    "enable_model_summary": False,
    "profiler": "simple",
}


@pytest.mark.parametrize("name", [*ARGUMENTS, "no_such_argument"])
def test_only_harmless_arguments_of_the_trainer_are_taken(name):
    if name in HARMLESS:
        config = TrainerConfig(accelerator="cpu", progress_bar=False, extra={name: HARMLESS[name]})
        build_trainer(config)
        return
    with pytest.raises(ValueError, match=rf"trainer\.extra\.{name} is not taken: "):
        TrainerConfig(extra={name: 1})


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ("{precision: bf16-mixed}", "model.dtype says it"),
        ("{limit_predict_batches: 1}", "work would be left out"),
        ("{profiler: [a, b]}", "it must be a number, a text"),
    ],
)
def test_what_to_do_instead_of_an_argument(argument, instead, capsys):
    assert main(["cache", "--trainer.extra", argument]) == 2
    assert instead in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"aws_secret_access_key": "S3CRET"}, "store.options.aws_secret_access_key"),
        ({"client_kwargs": {"aws_secret_access_key": "S3CRET"}}, "store.options.client_kwargs.aws_secret_access_key"),
        ({"client_kwargs": [{"aws_session_token": "S3CRET"}]}, "store.options.client_kwargs.aws_session_token"),
        ({"account_key": "S3CRET"}, "store.options.account_key"),
        ({"connection_string": "S3CRET"}, "store.options.connection_string"),
        ({"sas_token": "S3CRET"}, "store.options.sas_token"),
        ({"password": "S3CRET"}, "store.options.password"),
        ({"key": "S3CRET"}, "store.options.key"),
        ({"endpoint_url": "http://me:S3CRET@host:9000"}, "store.options.endpoint_url"),
        ({"conn": "Endpoint=x;AccountKey=S3CRET"}, "store.options.conn"),
    ],
)
def test_credentials_in_store_options(options, named):
    with pytest.raises(ValueError, match="give credentials in the environment") as caught:
        StoreConfig(options=options)
    assert named in str(caught.value)
    assert "S3CRET" not in str(caught.value)


def test_options_that_are_no_credentials():
    StoreConfig(root="sftp://me@host/folder", options={"endpoint_url": "http://host:9000", "key_filename": "id_rsa"})
    StoreConfig(options={"profile": "lab", "client_kwargs": {"region_name": "x"}, "SSEKMSKeyId": "alias/x"})


@pytest.mark.parametrize("root", ["sftp://me:S3CRET@host/folder", "abfs://box/folder?sv=1&sig=S3CRET"])
def test_credentials_in_the_root_of_a_store(root, capsys):
    assert main(["cache", "--store.root", root]) == 2
    message = capsys.readouterr().err
    assert "store.root holds a key or password: give credentials in the environment" in message
    assert "S3CRET" not in message


@pytest.mark.parametrize("url", ["reference://x", "simplecache::s3://bucket/x", "github://o:r@main/x", "http://h/x"])
def test_a_store_is_kept_where_it_can_be_written_only(url):
    with pytest.raises(UserError, match="a store cannot be kept at"):
        open_backend(url, {})


def test_the_alias_of_a_folder_is_a_name(tiny_llama_folder, tmp_path, monkeypatch):
    folder = tmp_path / "my-model"
    shutil.copytree(tiny_llama_folder, folder)
    (folder / "sub").mkdir()
    for place, names in ((folder, (".", "./", "../my-model/", str(folder))), (folder / "sub", ("..", "../sub/.."))):
        monkeypatch.chdir(place)
        assert {load_chat_model(name).alias for name in names} == {"my-model"}
