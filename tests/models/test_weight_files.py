"""Weight files: read from both formats, and named for what they are where they hold no weights."""

import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from focalbench.errors import DataError
from focalbench.models.weight_files import read_state_dict
from focalbench.models.yolov2 import YoloV2

STATE = {"a.weight": torch.arange(3.0), "a.bias": torch.zeros(2)}


class Payload:
    """What a malicious pickle would carry: a call on loading."""

    def __reduce__(self):
        return (print, ("ran",))


def old_format(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def safetensors(content, path):
    pytest.importorskip("safetensors.torch", reason="the extra timm is not installed").save_file(content, path)


def wrapped(names):
    return lambda content, path: torch.save({"epoch": 3, **dict.fromkeys(names, content)}, path)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.bin", "checkpoint.pth.tar"])
@pytest.mark.parametrize(
    "write", [torch.save, old_format, safetensors, *map(wrapped, (["state_dict"], ["model", "ema"], ["net"]))]
)
def test_the_content_decides_not_the_ending(tmp_path, write, name):
    write(STATE, tmp_path / name)
    found = read_state_dict(tmp_path / name)
    assert {key: value.tolist() for key, value in found.items()} == {"a.weight": [0, 1, 2], "a.bias": [0, 0]}


def test_several_state_dicts_are_not_chosen_from(tmp_path):
    torch.save({"student": STATE, "teacher": STATE}, tmp_path / "two.pth")
    with pytest.raises(
        DataError,
        match=r"two\.pth: holds several state dicts \(student, teacher\): save the "
        r"right one",
    ):
        read_state_dict(tmp_path / "two.pth")


def archive(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, "x")

    return write


def write_tar(path):
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("net.pth"), io.BytesIO())


def holding(content):
    return lambda path: path.write_bytes(content)


def numpys(save):
    content = io.BytesIO()
    save(content, np.zeros(2))
    return holding(content.getvalue())


def truncated(path):
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:-100])


def truncated_old(path):
    old_format({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])


FOREIGN = {
    "empty": (holding(b""), "is empty: download it again"),
    "page": (holding(b"\n<!DOCTYPE html>\n<html lang=en><title>caf\xc3\xa9</title>"), "is a web page, not weights"),
    "page in Latin-1": (holding(b"<HTML><title>caf\xe9</title>"), "is a web page, not weights"),
    "page after a comment": (holding(b"<!-- saved -->\n<html>"), "is a web page, not weights"),
    "refusal": (holding(b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>AccessDenied'), "is an XML document"),
    "json": (holding(json.dumps({"error": "Invalid username"}).encode()), "is JSON text"),
    "text": (holding("wget: café".encode() * 200), "is a text file"),
    "text cut in a letter": (holding(b"x" + "é".encode() * 600), "is a text file"),
    "lfs": (holding(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"), "git lfs pull"),
    "annex": (holding(b"/annex/objects/MD5E-s1--d4.pth\n"), "git annex get"),
    "image": (holding(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "is an image"),
    "hdf5": (holding(b"\x89HDF\r\n\x1a\n" + bytes(90)), "is an HDF5 file, as Keras"),
    "onnx": (holding(b"\x08\x08\x12\x07pytorch\x1a\x052.4.0:\x80\x01"), "is an ONNX model"),
    "tflite": (holding(b"\x1c\0\0\0TFL3" + bytes(90)), "is a TensorFlow Lite model"),
    "npy": (numpys(np.save), "is a numpy array"),
    "npz": (numpys(np.savez), "is an archive of numpy arrays"),
    "keras": (archive("metadata.json", "config.json", "model.weights.h5"), "is a Keras model"),
    "zip": (archive("net.pth"), "is a zip archive that torch.save did not write: unpack it"),
    "cut zip": (holding(b"PK\x03\x04 broken"), "is cut off or damaged: download it again"),
    "tar": (write_tar, "is a compressed or tar archive: unpack it"),
    "gzip": (holding(b"\x1f\x8b\x08" + bytes(90)), "is a compressed or tar archive: unpack it"),
    "pickle": (
        lambda path: path.write_bytes(pickle.dumps({"model": {"a": 1}})),
        "is a pickle that torch did not write",
    ),
    "script": (archive("net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"), "is a TorchScript program"),
    "model": (
        lambda path: torch.save(nn.Linear(1, 1), path),
        r"is a pickled model \(torch\.nn\.modules\.linear\.Linear",
    ),
    "old model": (lambda path: old_format(nn.Linear(1, 1), path), r"is a pickled model \(torch\.nn\.modules\.linear"),
    "objects": (lambda path: torch.save({"a": Payload()}, path), r"holds Python objects \(__builtin__\.print\)"),
    "newer pickle": (lambda path: torch.save([Payload()], path, pickle_protocol=4), r"objects \(builtins\.print\)"),
    "truncated": (truncated, "is cut off or damaged: download it again"),
    "truncated old": (truncated_old, "is a torch file that is cut off or damaged: download it again"),
    "darknet": (holding(bytes([0, 0, 0, 0, 2, 0, 0, 0]) + bytes(92)), r"is a darknet weight file: .* yolov2"),
    "bytes": (holding(b"\xfe\xed\xfa\xce" * 9), "is neither a torch nor a safetensors file"),
    "list": (lambda path: torch.save([torch.zeros(2)], path), "holds no state dict"),
    "numbers": (lambda path: torch.save({"a": 1}, path), "holds no state dict"),
    "nothing": (lambda path: torch.save({}, path), "holds no state dict"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_holds_no_weights_is_named_for_what_it_is_and_nothing_is_executed(tmp_path, capsys, kind):
    path = tmp_path / "net.pth"
    write, reason = FOREIGN[kind]
    write(path)
    with pytest.raises(DataError, match=rf"net\.pth: .*{reason}") as fault:
        read_state_dict(path)
    assert "weights_only" not in str(fault.value)
    assert "\n" not in str(fault.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["empty", "page", "lfs", "tar"])
def test_a_yolov2_names_them_too_rather_than_take_them_for_darknets(tmp_path, kind):
    write, reason = FOREIGN[kind]
    write(tmp_path / "net.weights")
    with pytest.raises(DataError, match=reason):
        YoloV2(num_classes=2, backbone="tiny", weights=str(tmp_path / "net.weights"))


def test_a_path_that_is_no_file_says_what_it_is(tmp_path):
    for path, reason in (
        (tmp_path / "imagnet", "no such weight file: model.weights is none, imagenet or the path of a file"),
        (tmp_path, "is a folder: model.weights is the path of the weight file in it"),
    ):
        with pytest.raises(DataError, match=reason):
            read_state_dict(path)
    address = type(tmp_path)("https://example.org/resnet18.pth")
    with pytest.raises(DataError, match="it is an address: download the file"):
        read_state_dict(address)
