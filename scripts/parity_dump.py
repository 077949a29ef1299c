"""Dumps what a torch model computes, for `parity import`.

    import parity_dump
    with parity_dump.capture(model, "out/"):
        model(tokens)

One file; needs torch (1.10 or later) and numpy, Python 3.8 or later. Around one forward it writes

    NNN.<module path>.<input|output>[.tpR].npy   a tensor of a module, in order of completion
    tokens.npy                                   the token ids
    position_ids.npy, attention_mask.npy         positions and padding, if the model was given or
                                                 made any
    dump.json (rank R > 0: dump.tpR.json)        framework, settings, true dtypes, layouts; last

and `parity import out/ -o golden/` needs nothing else. bf16 is written losslessly as its bits
(`<u2`); dump.json says so. Of tuples the first tensor is kept: Megatron's linear layers return
(product, bias). Every tensor is copied when its hook fires, because all_reduce and masked_fill_
work in place on it afterwards, and written at once, so memory does not grow with the model.

Tensor-parallel ranks write to one folder, each its own files.

On a GPU, results depend on the card, on the libraries that torch loaded and on torch's switches:
the key "gpu" of dump.json holds them, with null for what could not be found out.

    name, compute_capability, multiprocessors   the card; "9.0"
    driver                                      its version
    cublas, cublaslt                            the versions of the loaded libraries; "13.1.0"
    cublas_sha256, cublaslt_sha256              digests of the loaded library files
    flags                                       switches of torch that change products
    environment                                 variables that change them, those that are set

transformers computes scores, probabilities and rotated queries and keys in functions that are no
modules: those are wrapped while the block runs, and what they compute is named after the attention
module: `layers.0.self_attn.q_rot`. Anything else that no module gives out is recorded with
`recorder.keep(name, tensor)` inside the block, where `with capture(...) as recorder`.
"""

import contextlib
import ctypes
import fnmatch
import functools
import hashlib
import inspect
import json
import os
import platform
import subprocess
import sys
import warnings

import numpy
import torch

VERSION = 1

_NAMES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int64: "int64", torch.int32: "int32", torch.int16: "int16", torch.int8: "int8",
    torch.uint8: "uint8", torch.bool: "bool",
}

# Modules whose *input* is a stage of its own: the context before the output projection, the
# activation before the last MLP layer, the scores before the softmax, the attention's residual sum.
# `PARITY_UPDATE_DOCS=1 cargo test --lib presets` writes them.
# BEGIN of what is generated from the stage tables in src/arch
_STAGE_INPUTS = {
    "megatron-deepspeed": [
        "*.mlp.dense_4h_to_h",
        "*.post_attention_layernorm",
        "*.self_attention.dense",
        "*.self_attention.scale_mask_softmax",
        "*.tied_modules.embed.word_embeddings.norm",
    ],
    "megatron-core": [
        "*.linear_fc2",
        "*.mlp.linear_fc2",
        "*.mlp.shared_experts.linear_fc2",
        "*.pre_mlp_layernorm",
        "*.self_attention.core_attention.scale_mask_softmax",
        "*.self_attention.linear_proj",
    ],
    "transformers": [
        "*.attn.c_proj",
        "*.down_proj",
        "*.ln_2",
        "*.mlp.c_proj",
        "*.mlp.dense_4h_to_h",
        "*.mlp.down_proj",
        "*.mlp.shared_experts.down_proj",
        "*.post_attention_layernorm",
        "*.self_attention.dense",
        "*.self_attn.o_proj",
    ],
}
_STAGE_ARGUMENTS = {
    "megatron-deepspeed": [
    ],
    "megatron-core": [
        ("*.self_attention.core_attention", "key"),
        ("*.self_attention.core_attention", "query"),
        ("*.self_attention.core_attention", "value"),
    ],
    "transformers": [
    ],
}
# END of what is generated

# Modules that are given positions.
_POSITIONED = ("rotary_emb", "wpe", "position_embeddings")

# Variables that change which products cuBLAS and torch compute, or how.
_ENVIRONMENT = [
    "CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE", "DISABLE_ADDMM_CUDA_LT",
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUBLASLT_UNIFIED_WORKSPACE", "PYTORCH_TUNABLEOP_ENABLED", "PYTORCH_TUNABLEOP_TUNING",
    "CUBLAS_EMULATE_SINGLE_PRECISION", "CUBLAS_EMULATION_STRATEGY",
]


@contextlib.contextmanager
def capture(model, folder, framework=None, tokens=None, config=None, tensor_parallel=None,
            include="*", inputs="needed", allow_training=False):
    """Records one forward of `model`, run inside the `with` block, into `folder`.

    framework        transformers, megatron-deepspeed, megatron-core or torch; found out if None
    tokens           the token ids; the first integer tensor given to the model if None
    config           settings of the model as a dictionary; the model's own or Megatron's if None
    tensor_parallel  (rank, size); torch.distributed's and Megatron's if None
    include          glob of the module paths to record
    inputs           "needed": inputs that are stages of their own; "all": every module's

    Raises ValueError if the model would drop values out at random or the folder holds another
    dump. If the block raises, what was written is removed.
    """
    framework = framework or _framework(model)
    dropping = [name for name, module in model.named_modules()
                if module.training and getattr(module, "p", 0) and "Dropout" in type(module).__name__]
    if dropping and not allow_training:
        raise ValueError("the model is in training mode and drops out values at random in %s: "
                         "call model.eval() first" % dropping[0])
    recorder = _Recorder(model, str(folder), framework, tensor_parallel or _tensor_parallel(),
                         include, "all" if framework == "torch" else inputs)
    if tokens is not None:
        recorder.keep_tokens(tokens)
    try:
        yield recorder
        recorder.finish(config if config is not None else _config(model))
    except BaseException:
        recorder.discard()
        raise
    finally:
        recorder.detach()


class _Recorder:
    def __init__(self, model, folder, framework, tensor_parallel, include, inputs):
        self.folder, self.framework, self.inputs = folder, framework, inputs
        self.rank, self.size = tensor_parallel
        self.suffix = ".tp%d" % self.rank if self.size > 1 else ""
        self.arrays, self.calls, self.written, self.hooks = {}, {}, [], []
        self.tokens, self.classes, self.use_cache, self.autocast = None, {}, None, False
        self.positions, self.mask, self.attending, self.wrapped = None, None, None, []
        self.parameters = [p.dtype for p in model.parameters() if p.is_floating_point()]
        self.device = str(next((p.device for p in model.parameters()), torch.device("cpu")))
        os.makedirs(folder, exist_ok=True)
        clash = [name for name in os.listdir(folder)
                 if self.size == 1 or (self.suffix + ".") in name]
        if clash:
            raise ValueError("%s already holds %s: dump into an empty folder" % (folder, clash[0]))
        for name, module in model.named_modules():
            if name and not _is_container(module) and fnmatch.fnmatch(name, include):
                self._hook(name, module)
        if framework == "transformers":
            self._wrap_attention(model, include)
        self.hooks.append(_before(model, self._on_root_input))
        self.hooks.append(model.register_forward_hook(self._on_root_output))

    def _hook(self, name, module):
        self.classes[name] = type(module).__name__
        globs = _STAGE_INPUTS.get(self.framework, [])
        wanted = self.inputs == "all" or any(fnmatch.fnmatch("." + name, glob) for glob in globs)
        if wanted:
            self.hooks.append(_before(module, lambda m, args, kwargs: self._record(
                name, "input", _first((args, list(kwargs.values()))))))
        arguments = [argument for glob, argument in _STAGE_ARGUMENTS.get(self.framework, [])
                     if fnmatch.fnmatch("." + name, glob)]
        if arguments:
            self.hooks.append(_before(module, lambda m, args, kwargs: self._record_arguments(
                name, arguments, inspect.signature(m.forward).bind(*args, **kwargs).arguments)))
        last = name.split(".")[-1]
        if last in _POSITIONED:
            self.hooks.append(_before(module, self._on_positions))
        if last == "rotary_emb":
            self.hooks.append(module.register_forward_hook(
                lambda m, args, output: self._record_rotary(name, output)))
        else:
            self.hooks.append(module.register_forward_hook(
                lambda m, args, output: self._record(name, "output", _first(output))))

    def _record_arguments(self, name, arguments, given):
        for argument in arguments:
            self._record(name, "input." + argument, given.get(argument))

    def _record_rotary(self, name, output):
        if isinstance(output, (tuple, list)) and len(output) == 2:
            for part, tensor in zip(("cos", "sin"), output):
                self._record("%s.%s" % (name, part), "output", tensor)
        else:
            self._record(name, "output", _first(output))

    def _on_positions(self, module, args, kwargs):
        """Keeps the positions that a module which has something for each of them is given."""
        for tensor in [kwargs.get("position_ids")] + list(args) + list(kwargs.values()):
            whole = isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.int64, torch.int32)
            if self.positions is None and whole and tensor.dim() == 2:
                self.positions = tensor.detach().to("cpu", torch.int64).numpy()

    def _wrap_attention(self, model, include):
        """Records what transformers' attention computes in functions."""
        names = {module: name for name, module in model.named_modules()
                 if type(module).__name__.endswith("Attention") and fnmatch.fnmatch(name, include)}
        for module in names:
            self.hooks.append(_before(module, self._on_attention))
        for file in {type(module).__module__ for module in names}:
            code = sys.modules[file]
            for function, wrap in (("apply_rotary_pos_emb", self._rotating),
                                   ("eager_attention_forward", self._attention)):
                original = getattr(code, function, None)
                if original is not None:
                    setattr(code, function, functools.wraps(original)(wrap(original, names, code)))
                    self.wrapped.append((code, function, original))

    def _on_attention(self, module, args, kwargs):
        self.attending = module

    def _rotating(self, original, names, code):
        def rotate(*args, **kwargs):
            rotated = original(*args, **kwargs)
            name = names.get(self.attending)
            if name is not None:
                for part, tensor in zip(("q_rot", "k_rot"), rotated):
                    self._record("%s.%s" % (name, part), "output", tensor)
            return rotated
        return rotate

    def _attention(self, original, names, code):
        def attend(module, query, key, value, attention_mask, *args, **kwargs):
            name = names.get(module)
            output = original(module, query, key, value, attention_mask, *args, **kwargs)
            if name is None:
                return output
            scaling = kwargs.get("scaling", args[0] if args else None)
            if scaling is None:
                scaling = query.size(-1) ** -0.5
            if not hasattr(code, "apply_rotary_pos_emb"):
                # Otherwise they are what was rotated, and the values what was projected.
                for part, tensor in (("query", query), ("key", key), ("value", value)):
                    self._record("%s.%s" % (name, part), "output", tensor)
            if kwargs.get("softcap") is None:
                # As the function itself computes them: the same operations on the same tensors.
                keys = code.repeat_kv(key, module.num_key_value_groups) \
                    if hasattr(code, "repeat_kv") else key
                scores = torch.matmul(query, keys.transpose(2, 3)) * scaling
                self._record(name + ".scores", "output", scores)
            self._record(name + ".probs", "output", output[1])
            return output
        return attend

    def _on_root_input(self, module, args, kwargs):
        # transformers keeps keys and values unless it is told not to; where they lie then decides
        # which kernel a GPU's library takes.
        default = getattr(getattr(module, "config", None), "use_cache", None)
        given = _by_name(module, args, kwargs)
        self.autocast = _autocast(self.device)
        self.use_cache = given.get("use_cache", default)
        self._on_positions(module, (), {"position_ids": given.get("position_ids")})
        mask = given.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.dim() == 2:
            self.mask = (mask != 0).detach().to("cpu", torch.int64).numpy()
        elif isinstance(mask, torch.Tensor) and self.framework == "transformers":
            warnings.warn("an attention mask of %d axes is not recorded: parity will take every token "
                          "to see all before it" % mask.dim(), stacklevel=2)
        named = [given[key] for key in ("input_ids", "tokens") if key in given]
        for value in named + list(args) + list(kwargs.values()):
            for tensor in value if isinstance(value, (tuple, list)) else (value,):
                whole = isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.int64, torch.int32)
                if self.tokens is None and whole and tensor.dim() == 2:
                    self.keep_tokens(tensor)

    def _on_root_output(self, module, args, output):
        logits = getattr(output, "logits", None)
        logits = logits if logits is not None else _first(output)
        # A head that is a module of its own has been recorded already.
        headed = any(name.split(".")[-1] in ("lm_head", "output_layer") for name, _ in self.arrays)
        if not headed:
            self._record("logits", "output", logits, file="logits")

    def keep(self, name, tensor):
        """Records a tensor that no module gives out, as the output of a module of that name."""
        self._record(name, "output", tensor)

    def keep_tokens(self, tokens):
        self.tokens = tokens.detach().to("cpu", torch.int64).numpy()

    def _record(self, name, kind, tensor, file=None):
        if tensor is None or tensor.dtype not in _NAMES:
            return
        key = (name, kind)
        self.calls[key] = self.calls.get(key, 0) + 1
        if key in self.arrays:
            return  # a module that runs again: the first time counts
        file = "%03d.%s%s.npy" % (len(self.arrays), file or "%s.%s" % (name, kind), self.suffix)
        # A copy in C order: the tensor may be changed in place as soon as this returns.
        copy = tensor.detach().to("cpu", copy=True).contiguous()
        bits = copy.view(torch.int16) if copy.dtype == torch.bfloat16 else copy
        array = bits.numpy()
        self._write(file, array.view(numpy.uint16) if copy.dtype == torch.bfloat16 else array)
        self.arrays[key] = {
            "file": file, "module": name, "kind": kind, "dtype": _NAMES[copy.dtype],
            "layout": self._layout(name, kind, array.ndim), "shape": list(array.shape),
        }

    def _layout(self, name, kind, axes):
        if axes == 4:
            return "sbnd" if kind.startswith("input.") else "bnss"
        if axes != 3:
            return "other"
        if self.framework == "megatron-deepspeed":
            # Layers of the pipeline are numbered; the final norm comes after the last transposition.
            final = "." not in name and "Norm" in self.classes.get(name, "")
            return "sbh" if name[:1].isdigit() and not final else "bsh"
        if self.framework == "megatron-core":
            while name.startswith("module."):
                name = name[len("module."):]
            inside = name.startswith(("decoder", "output_layer")) or name == "embedding"
            return "sbh" if inside else "bsh"
        return "bsh"

    def _write(self, file, array):
        path = os.path.join(self.folder, file)
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        with open(path + ".incomplete", "wb") as out:
            self.written.append(path + ".incomplete")
            numpy.save(out, little)
        os.replace(path + ".incomplete", path)
        self.written[-1] = path

    def finish(self, config):
        if not self.arrays:
            raise ValueError("nothing was recorded: run the model inside the with block")
        if self.tokens is None:
            raise ValueError("no token ids were seen: give them as capture(..., tokens=...)")
        if self.rank == 0:
            self._write("tokens.npy", self.tokens)
            for file, values in (("position_ids.npy", self.positions),
                                 ("attention_mask.npy", self.mask)):
                # One row stands for all; whatever else has another shape belongs to other tokens.
                with contextlib.suppress(ValueError):
                    if values is not None:
                        self._write(file, numpy.broadcast_to(values, self.tokens.shape))
        dtype = max(set(self.parameters), key=self.parameters.count, default=torch.float32)
        for key, array in self.arrays.items():
            array["calls"] = self.calls[key]
        description = {
            "parity_dump": VERSION,
            "framework": self.framework,
            "framework_version": _version(self.framework),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            "device": self.device if self.device == "cpu" else torch.cuda.get_device_name(self.device),
            "cuda": torch.version.cuda if self.device != "cpu" else None,
            "dtype": _NAMES[dtype],
            "tensor_parallel": self.size,
            "rank": self.rank,
            "config": config,
            "numerics": {**_numerics(config), "use_cache": self.use_cache, "autocast": self.autocast},
            "arrays": list(self.arrays.values()),
        }
        if self.device.startswith("cuda"):
            description["gpu"] = gpu(self.device)
        path = os.path.join(self.folder, "dump%s.json" % (self.suffix if self.rank else ""))
        with open(path + ".incomplete", "w") as out:
            json.dump(description, out, indent=1)
        os.replace(path + ".incomplete", path)

    def detach(self):
        for code, function, original in self.wrapped:
            setattr(code, function, original)
        for hook in self.hooks:
            hook.remove()

    def discard(self):
        for path in self.written:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)


def _autocast(device):
    """The type in which autocast runs products on this kind of device; False if it is off."""
    kind = device.split(":")[0]
    try:
        if not torch.is_autocast_enabled(kind):
            return False
        return _NAMES[torch.get_autocast_dtype(kind)]
    except (TypeError, AttributeError):  # torch before 2.4 knows them by name
        enabled = torch.is_autocast_cpu_enabled if kind == "cpu" else torch.is_autocast_enabled
        dtype = torch.get_autocast_cpu_dtype if kind == "cpu" else torch.get_autocast_gpu_dtype
        return _NAMES[dtype()] if enabled() else False


def _by_name(module, args, kwargs):
    """What a module is given, by the names of its parameters."""
    try:
        given = dict(inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return kwargs
    return {**given.pop("kwargs", {}), **given}


def _before(module, function):
    """A hook before the forward; with keyword arguments where torch passes them on (2.0)."""
    try:
        return module.register_forward_pre_hook(function, with_kwargs=True)
    except TypeError:
        return module.register_forward_pre_hook(lambda m, args: function(m, args, {}))


def _first(value):
    """The first tensor in nested tuples; an output object's fields in order."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((found for found in map(_first, value) if found is not None), None)
    return None


def _is_container(module):
    return isinstance(module, (torch.nn.ModuleList, torch.nn.ModuleDict))


def _framework(model):
    module = type(model).__module__
    if module.startswith("transformers"):
        return "transformers"
    if module.startswith("megatron.core"):
        return "megatron-core"
    if hasattr(model, "tied_modules") or module.startswith("megatron"):
        return "megatron-deepspeed"
    return "torch"


def _version(framework):
    with contextlib.suppress(Exception):
        if framework == "transformers":
            import transformers
            return transformers.__version__
        if framework == "megatron-core":
            import megatron.core
            return megatron.core.__version__
    return None


def _tensor_parallel():
    for module in ("megatron.core.parallel_state", "megatron.mpu"):
        with contextlib.suppress(Exception):
            mpu = __import__(module, fromlist=["x"])
            return mpu.get_tensor_model_parallel_rank(), mpu.get_tensor_model_parallel_world_size()
    return 0, 1


def _config(model):
    """Settings of the model: transformers' config, else Megatron's arguments, else none."""
    settings = getattr(model, "config", None)
    if hasattr(settings, "to_dict"):
        settings = settings.to_dict()
        # Where the code that reads them makes a difference of it, attributes are the truth.
        settings["attn_implementation"] = getattr(model.config, "_attn_implementation", None)
        return _plain(settings)
    for module in ("megatron.training", "megatron"):
        with contextlib.suppress(Exception):
            return _plain(vars(__import__(module, fromlist=["x"]).get_args()))
    if not hasattr(settings, "__dict__"):
        return {}
    while hasattr(model, "module"):
        model = model.module
    if not hasattr(model, "position_embedding_type"):
        return _plain(vars(settings))
    if getattr(model, "rotary_scaling", False) or getattr(model, "rope_scaling", False):
        raise ValueError("the model does not keep its rope_scaling_factor: give "
                         "config={\"transformer_config\": …, \"gpt_model\": …}")
    # What megatron-core's GPTModel is built with besides.
    names = ("vocab_size", "max_sequence_length", "position_embedding_type", "rotary_base",
             "rotary_percent", "share_embeddings_and_output_weights")
    built = {name: getattr(model, name) for name in names if hasattr(model, name)}
    return {"transformer_config": _plain(vars(settings)), "gpt_model": _plain(built)}


def _plain(value):
    """What JSON can hold; dtypes by name, other objects by what they print as."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.__name__ if inspect.isroutine(value) else str(value)


def _numerics(config):
    """Settings of torch that change results."""
    settings = {
        "threads": torch.get_num_threads(),
        "matmul_tf32": _matmul_tf32(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "attn_implementation": config.get("attn_implementation") if isinstance(config, dict) else None,
    }
    with contextlib.suppress(AttributeError):
        settings["float32_matmul_precision"] = torch.get_float32_matmul_precision()
    return settings


def _matmul_tf32():
    try:
        return bool(torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:
        # torch 2.9 refuses the old switch to whoever has used the new one.
        return torch.backends.cuda.matmul.fp32_precision == "tf32"


def gpu(device="cuda"):
    """What results on this GPU depend on; None for what cannot be found out."""
    properties = torch.cuda.get_device_properties(device)
    cublas = loaded_library("libcublas.so")
    return {
        "name": torch.cuda.get_device_name(device),
        "compute_capability": "%d.%d" % torch.cuda.get_device_capability(device),
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver(),
        "cublas": _version_text(_cublas_version(cublas)),
        "cublaslt": _version_text(_cublaslt_version(loaded_library("libcublasLt.so"))),
        "cublas_sha256": _sha256(cublas),
        "cublaslt_sha256": _sha256(loaded_library("libcublasLt.so")),
        "flags": _gpu_flags(),
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


def loaded_library(name):
    """The file of a library that this process has loaded, such as "libcublas.so"; else None.

    Only the loaded file counts: a machine often has several versions of one library.
    """
    with contextlib.suppress(OSError):
        with open("/proc/self/maps") as maps:
            for line in maps:
                path = line.rstrip("\n").split(None, 5)[-1]
                if path.startswith("/") and os.path.basename(path).startswith(name):
                    return path
    return None


def _cublas_version(path):
    with contextlib.suppress(Exception):
        number = ctypes.c_int(0)
        # The version is the library's: it takes no handle.
        if ctypes.CDLL(path).cublasGetVersion_v2(None, ctypes.byref(number)) == 0:
            return number.value
    return None


def _cublaslt_version(path):
    with contextlib.suppress(Exception):
        function = ctypes.CDLL(path).cublasLtGetVersion
        function.restype = ctypes.c_size_t
        return function()
    return None


def _version_text(number):
    """130100 is 13.1.0; until version 11 the major counted thousands: 11401 is 11.4.1."""
    if number is None:
        return None
    major = 10000 if number >= 100000 else 1000
    return "%d.%d.%d" % (number // major, number % major // 100, number % major % 100)


_digests = {}


def _sha256(path):
    """Of a file, once a process: libcublasLt has hundreds of megabytes."""
    if path not in _digests:
        digest = hashlib.sha256()
        try:
            with open(path, "rb") as file:
                for block in iter(lambda: file.read(1 << 20), b""):
                    digest.update(block)
            _digests[path] = digest.hexdigest()
        except (OSError, TypeError):
            return None
    return _digests[path]


def _driver():
    with contextlib.suppress(Exception):
        nvml, text = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0:
            return text.value.decode()
    with contextlib.suppress(Exception):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             timeout=20, check=True).stdout.decode()
        return out.split()[0]
    return None


def _gpu_flags():
    matmul = torch.backends.cuda.matmul

    def flag(name, before):
        """A switch; `before` is what versions of torch do that lack it."""
        try:
            return bool(getattr(matmul, name))
        except (AttributeError, AssertionError):
            return before

    flags = {
        "allow_tf32": _matmul_tf32(),
        "allow_fp16_reduced_precision_reduction":
            flag("allow_fp16_reduced_precision_reduction", True),
        "allow_bf16_reduced_precision_reduction":
            flag("allow_bf16_reduced_precision_reduction", True),
        # Before torch 2.10 sums were cut wherever cuBLAS liked.
        "allow_fp16_reduced_precision_reduction_split_k":
            flag("allow_fp16_reduced_precision_reduction_split_k", True),
        "allow_bf16_reduced_precision_reduction_split_k":
            flag("allow_bf16_reduced_precision_reduction_split_k", True),
        "allow_fp16_accumulation": flag("allow_fp16_accumulation", False),
        "preferred_blas_library": "cublas",
        "tunable_op": False,
    }
    with contextlib.suppress(Exception):
        library = str(torch.backends.cuda.preferred_blas_library())
        flags["preferred_blas_library"] = library.split(".")[-1].lower()
    with contextlib.suppress(Exception):
        flags["tunable_op"] = bool(torch.cuda.tunable.is_enabled())
    return flags
