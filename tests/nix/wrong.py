"""Wrong configurations: settings, and words of the sentence that refuses them."""

from __future__ import annotations

from typing import Any

NODE = {"type": "derivation", "name": "node", "outPath": "/nix/store/node"}
URL = "https://example.org/a.safetensors"
HASH = "sha256-CaJ0HKxKIkDt0sCUrvBbzuRbs4SESgJuHZMGBEq8fEw="

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "relative folder": ({"dataDir": "data"}, "dataDir: data is not an absolute path"),
    "folder with dots": ({"dataDir": "/srv/../etc"}, "dataDir: /srv/../etc is not an absolute path"),
    "folder in the store": ({"dataDir": "/nix/store/x"}, "dataDir: /nix/store/x lies in the read-only store"),
    "folder with a space": ({"dataDir": "/srv/my data"}, "dataDir: /srv/my data cannot be used"),
    "folder with a backslash": ({"dataDir": "/srv/a\\b"}, "dataDir: /srv/a\\b cannot be used"),
    "the root folder": ({"dataDir": "/"}, "dataDir: / cannot be used"),
    "folder with a slash at its end": ({"dataDir": "/home/ann/"}, "dataDir: /home/ann/ has a slash too many"),
    "folder with two slashes": ({"dataDir": "/home//ann"}, "dataDir: /home//ann has a slash too many"),
    "nothing but slashes": ({"dataDir": "//"}, "dataDir: // has a slash too many"),
    "everybody's models, with a slash": ({"models": {"folders": ["/home/"]}}, "models.folders: /home/ has a slash"),
    "a user's models, with a dot": ({"models": {"folders": ["/home/./ann"]}}, "not an absolute path without dots"),
    "pictures with a slash at the end": (
        {"extraArgs": ["--output-directory=/home/ann/"]},
        "extraArgs: /home/ann/ has a slash too many",
    ),
    "the system's settings": ({"dataDir": "/etc"}, "dataDir: /etc lies among the system's own folders"),
    "all of Nix": ({"dataDir": "/nix"}, "dataDir: /nix lies among the system's own folders"),
    "Nix's database": ({"dataDir": "/nix/var"}, "dataDir: /nix/var lies among the system's own folders"),
    "every service's folder": ({"dataDir": "/var/lib"}, "dataDir: /var/lib lies among the system's own folders"),
    "folder that is private": ({"dataDir": "/tmp/comfy"}, "dataDir: /tmp/comfy is hidden"),
    "pictures in the store": (
        {"extraArgs": ["--output-directory=/nix/store/x"]},
        "extraArgs: /nix/store/x lies in the read-only store",
    ),
    "pictures somewhere": ({"extraArgs": ["--output-directory=pics"]}, "extraArgs: pics is not an absolute path"),
    "pictures apart": (
        {"extraArgs": ["--output-directory", "/srv/pics"]},
        "extraArgs: --output-directory and its path must be one argument",
    ),
    "key apart": ({"extraArgs": ["--tls-keyfile", "/srv/key"]}, "--tls-keyfile and its path must be one argument"),
    "private key": ({"extraArgs": ["--tls-keyfile=/tmp/key"]}, "extraArgs: /tmp/key is hidden"),
    "two arguments in one text": (
        {"extraArgs": ["--listen 0.0.0.0"]},
        'extraArgs: "--listen 0.0.0.0" holds more than one argument',
    ),
    "an argument behind a value": ({"extraArgs": ["--preview-method=auto --lowvram"]}, "holds more than one argument"),
    "private pictures": ({"extraArgs": ["--temp-directory=/var/tmp/x"]}, "extraArgs: /var/tmp/x is hidden"),
    "private models": ({"models": {"folders": ["/tmp/models"]}}, "models.folders: /tmp/models is hidden"),
    "folder with a colon": ({"dataDir": "/srv/a:b"}, "dataDir: /srv/a:b cannot be used"),
    "host with a scheme": ({"host": "http://0.0.0.0"}, 'host: "http://0.0.0.0" is not an address'),
    "hosts in one text": ({"host": "127.0.0.1,::1"}, 'host: "127.0.0.1,::1" is not an address; write each alone'),
    "host with a port": ({"host": "0.0.0.0:8188"}, 'host: "0.0.0.0:8188" is not an address'),
    "host in brackets": ({"host": "[::1]"}, 'host: "[::1]" is not an address; write each alone, without brackets'),
    "no host": ({"host": []}, "host: there must be an address"),
    "no port": ({"port": 0}, "port: 0 would be another one at each start"),
    "node outside": ({"customNodes": {"../evil": NODE}}, 'customNodes: "../evil" cannot be a folder\'s name'),
    "hidden node": ({"customNodes": {".git": NODE}}, 'customNodes: ".git" cannot be a folder\'s name'),
    "disabled node": ({"customNodes": {"a.disabled": NODE}}, "customNodes: ComfyUI skips a folder called a.disabled"),
    "bytecode node": ({"customNodes": {"__pycache__": NODE}}, "customNodes: ComfyUI skips a folder called __pycache__"),
    "this pack twice": ({"customNodes": {"xpu-nodes": NODE}}, "customNodes: xpu-nodes is this pack"),
    "core's node": ({"customNodes": {"websocket_image_save.py": NODE}}, "is ComfyUI's own"),
    "model without folder": ({"models": {"files": {"a.safetensors": {"url": URL, "hash": HASH}}}}, "not folder/file"),
    "model outside": ({"models": {"files": {"../../a": {"url": URL, "hash": HASH}}}}, "not folder/file"),
    "model that is a folder, too": (
        {"models": {"files": {name: {"url": URL, "hash": HASH} for name in ("vae/a", "vae/a/b")}}},
        'models.files: "vae/a" would be a file and the folder of another',
    ),
    "model from nowhere": ({"models": {"files": {"vae/a": {}}}}, 'models.files: "vae/a" needs either a url or a path'),
    "model from two places": (
        {"models": {"files": {"vae/a": {"url": URL, "hash": HASH, "path": "/srv/a"}}}},
        'models.files: "vae/a" needs either a url or a path',
    ),
    "model without hash": (
        {"models": {"files": {"vae/a": {"url": URL}}}},
        'models.files: "vae/a" needs its url\'s hash',
    ),
    "hash in hexadecimal": (
        {"models": {"files": {"vae/a": {"url": URL, "hash": "6ce0161689b3853acaa03779ec93eafe"}}}},
        'models.files: the hash of "vae/a" is not of the form',
    ),
    "url of another kind": (
        {"models": {"files": {"vae/a": {"url": "ftp://a/b", "hash": HASH}}}},
        'models.files: the url of "vae/a" is not',
    ),
    "relative model folder": ({"models": {"folders": ["models"]}}, "models.folders: models is not an absolute path"),
    "model folder with a colon": ({"models": {"folders": ["/srv/a:b"]}}, "models.folders: /srv/a:b cannot be used"),
    "model folder twice": (
        {"models": {"folders": ["/var/lib/comfyui-xpu/models"]}},
        "models.folders: /var/lib/comfyui-xpu/models is read anyway",
    ),
    "browser": ({"extraArgs": ["--auto-launch"]}, "extraArgs: --auto-launch opens a browser"),
    "a start that ends": ({"extraArgs": ["--quick-test-for-ci"]}, "extraArgs: --quick-test-for-ci ends ComfyUI"),
    "without this pack": ({"extraArgs": ["--disable-all-custom-nodes"]}, "--disable-all-custom-nodes leaves this pack"),
    "another maker's cards": ({"extraArgs": ["--cuda-device=1"]}, "extraArgs: --cuda-device chooses among NVIDIA's"),
    "argument of an option": ({"extraArgs": ["--listen=0.0.0.0"]}, "services.comfyui-xpu.host; set that instead"),
    "argument apart": ({"extraArgs": ["--port", "80"]}, "services.comfyui-xpu.port; set that instead"),
    "cpu as an argument": ({"extraArgs": ["--cpu"]}, "services.comfyui-xpu.acceleration; set that instead"),
    "variable of an option": (
        {"environment": {"ONEAPI_DEVICE_SELECTOR": "opencl:*"}},
        "services.comfyui-xpu.device.selector; set that instead",
    ),
    "Python's packages as a variable": (
        {"environment": {"PYTHONPATH": "/srv/python"}},
        "services.comfyui-xpu.extraPackages; set that instead",
    ),
    "the distribution's C library": (
        {"environment": {"LD_LIBRARY_PATH": "/opt/a:/usr/lib/x86_64-linux-gnu"}},
        "environment: LD_LIBRARY_PATH names the distribution's libraries",
    ),
    "the distribution's other libraries": (
        {"environment": {"LD_LIBRARY_PATH": "/lib64:/opt/a"}},
        "environment: LD_LIBRARY_PATH names the distribution's libraries",
    ),
    "variable with a bad name": ({"environment": {"A B": "1"}}, 'environment: "A B" cannot be a variable\'s name'),
    "OpenCL": ({"device": {"selector": "opencl:*"}}, "device.selector: opencl:* hides every device from PyTorch"),
    "selector not understood": ({"device": {"selector": "gpu0"}}, "device.selector: gpu0 is not understood"),
    "selector with more than is used": (
        {"device": {"selector": "level_zero:gpu;opencl:gpu"}},
        "device.selector: level_zero:gpu;opencl:gpu is not understood here",
    ),
    "selector that hides something": ({"device": {"selector": "!opencl:*"}}, "!opencl:* is not understood here"),
    "affinity not understood": ({"device": {"affinity": "first"}}, "device.affinity: first is not a list"),
    "affinity on the CPU": (
        {"acceleration": "cpu", "device": {"affinity": "0"}},
        "device.affinity: chooses among GPUs",
    ),
    "Ollama without scheme": (
        {"ollama": {"hosts": ["gpu-box:11434"]}},
        "ollama.hosts: gpu-box:11434 is not an address",
    ),
    "Ollama at no port": ({"ollama": {"hosts": ["http://a:port"]}}, "ollama.hosts: http://a:port is not an address"),
    "Ollama above the ports": ({"ollama": {"hosts": ["http://a:65536"]}}, "http://a:65536 is not an address"),
    "Ollama with a password": ({"ollama": {"hosts": ["http://u:p@h:1"]}}, "http://u:p@h:1 is not an address"),
    "Ollama with a path": ({"ollama": {"hosts": ["http://a/b"]}}, "ollama.hosts: http://a/b is not an address"),
}
