//! The CUDA backend without a GPU: `parity` on libraries that run its own kernels on the CPU, that log
//! what they are asked for, and that fail when they are told to.

use crate::common::cpp::is_required;
use crate::common::fake_gpu::FakeGpu;
use crate::common::{self, Copy, goldens};
use half::bf16;
use parity::arch::Framework;
use parity::backend::{Compiler, CudaSettings, Probe};
use parity::golden::{Content, Layout, Manifest, import};
use parity::op::Summation;
use parity::tensor::{DType, Tensor, npy};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    let (out, err) = (stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
}

fn diff(gpu: &FakeGpu, golden: &Path, model: &Path, args: &[&str]) -> Output {
    let paths = [
        "--golden",
        golden.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
    ];
    gpu.parity(&[&["diff", "--device", "cuda"], &paths[..], args].concat())
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

/// With NVIDIA's own compiler, where it is: a folder in PARITY_CUDA_LIBS, or the system's.
#[test]
fn kernels_compile_for_every_architecture() {
    let compiler = match Compiler::open(&CudaSettings::from_env()) {
        Ok(compiler) => compiler,
        Err(reason) => {
            assert!(!is_required("nvrtc"), "{reason}");
            eprintln!("not run: {reason}");
            return;
        }
    };
    for architecture in ["sm_80", "sm_90"] {
        for dtype in TYPES {
            let image = compiler.compile(dtype, architecture).unwrap();
            assert_eq!(
                &image[..4],
                b"\x7fELF",
                "a CUBIN of {dtype} for {architecture}"
            );
            for kernel in Compiler::kernels() {
                let named = image
                    .windows(kernel.len())
                    .any(|bytes| bytes == kernel.as_bytes());
                assert!(named, "{kernel} in {dtype} for {architecture}");
            }
        }
    }
    let error = compiler
        .compile(DType::F32, "sm_1")
        .unwrap_err()
        .to_string();
    assert!(error.contains("sm_1"), "{error}");
}

/// References of a CPU, so within tolerances: what differs is the order of sums.
#[test]
fn all_references_hold_on_the_device() {
    let Some(gpu) = FakeGpu::new() else { return };
    // RMSNorm as transformers computes it, by single operations, has no kernel yet.
    let cases = fs::read_dir("cases").unwrap().map(|case| case.unwrap());
    let cases = cases.map(|case| case.path().to_string_lossy().into_owned());
    let mut cases: Vec<String> = cases.filter(|case| case.ends_with(".toml")).collect();
    cases.sort();
    let of_rms_norm = ["llama", "qwen", "mixtral", "deepseek"];
    let eager_rms_norm = |case: &String| {
        of_rms_norm.iter().any(|name| case.contains(name)) && !case.contains("checkpoint")
    };
    let (refused, run): (Vec<String>, Vec<String>) = cases.into_iter().partition(eager_rms_norm);
    for case in common::sample(&refused, 8) {
        let output = gpu.parity(&["diff", case, "--device", "cuda"]);
        assert_code(&output, 2);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            error.contains("cuda does not implement RMS norm"),
            "{error}"
        );
    }
    const EXACT: &str = "cases/transformers_bloom_bf16_tp1.toml";
    let mut args = vec!["diff", EXACT, "--device", "cuda", "--format", "json"];
    let run = run.iter().map(String::as_str);
    args.extend(common::sample(run.filter(|case| *case != EXACT), 7));
    let output = gpu.parity(&args);
    assert_code(&output, 0);
    let report = report(&output);
    for case in report["cases"].as_array().unwrap() {
        assert_eq!(case["on_gpu"]["exactly_comparable"], false);
        let notes = case["notes"].to_string();
        assert!(notes.contains("bit-exact comparison impossible"), "{notes}");
    }
    let stages = report["stages"].as_array().unwrap();
    assert!(stages.iter().all(|stage| stage["device"] == "cuda"));
    // transformers' bf16 is met to the bit but where a sum is next to a boundary.
    let unequal = stages
        .iter()
        .filter(|stage| stage["case"] == "transformers_bloom_bf16_tp1")
        .map(|stage| stage["unequal"].as_u64().unwrap());
    assert!(unequal.sum::<u64>() <= 4);
}

/// A copy of a golden that says that this GPU made it.
fn made_here(name: &str, change: impl FnOnce(&mut Value)) -> Copy {
    let copy = Copy::of(name);
    let path = copy.golden().join("golden.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["provenance"]["device"] = "Fake GPU".into();
    manifest["provenance"]["torch"] = "2.11.0+cu130".into();
    manifest["provenance"]["gpu"] = json!({
        "name": "Fake GPU",
        "compute_capability": "9.0",
        "multiprocessors": 4,
        "driver": null,
        "cublas": "13.1.0",
        "cublaslt": "13.1.0",
        "cublas_sha256": null,
        "cublaslt_sha256": null,
        "flags": {
            "allow_tf32": false,
            "allow_fp16_reduced_precision_reduction": true,
            "allow_bf16_reduced_precision_reduction": true,
            "allow_fp16_accumulation": false,
            "preferred_blas_library": "_BlasBackend.Default",
            "tunable_op": false,
        },
        "environment": {},
    });
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
    copy
}

#[test]
fn a_reference_of_the_same_gpu_is_held_to_the_bit() {
    let Some(gpu) = FakeGpu::new() else { return };
    let copy = made_here("transformers_bloom_bf16_tp1", |_| ());
    let model = goldens().join("bloom_bf16_tp1/hf");
    let blocks = diff(
        &gpu,
        &copy.golden(),
        &model,
        &["--stages", "h.*", "--format", "json"],
    );
    assert_code(&blocks, 0);
    let held = report(&blocks);
    assert_eq!(held["cases"][0]["on_gpu"]["exactly_comparable"], true);
    for stage in held["stages"].as_array().unwrap() {
        assert_eq!(stage["tolerance"]["origin"], "built-in, cuda");
        assert_eq!(stage["tolerance"]["bounds"][0]["kind"], "exact");
    }
    // One logit of the CPU's reference differs by one ulp: exact is exact.
    let logits = diff(
        &gpu,
        &copy.golden(),
        &model,
        &["--stages", "logits", "--mode", "isolated"],
    );
    assert_code(&logits, 1);
    let text = stdout(&logits);
    assert!(
        text.contains("1 of 10240 elements differ where none may"),
        "{text}"
    );
}

/// What a report says of being exact is what was asked.
#[test]
fn a_tolerance_that_was_asked_for_is_not_called_exact() {
    let Some(gpu) = FakeGpu::new() else { return };
    let copy = made_here("transformers_bloom_bf16_tp1", |_| ());
    let model = goldens().join("bloom_bf16_tp1/hf");
    let run = |args: &[&str]| {
        diff(
            &gpu,
            &copy.golden(),
            &model,
            &[&["--stages", "h.0"], args].concat(),
        )
    };
    let loose = run(&["--tolerance", "rel=1e-1"]);
    let text = stdout(&loose);
    assert!(
        text.contains("comparable to the bit, but held to other tolerances"),
        "{text}"
    );
    let exact = report(&run(&["--format", "json"]));
    assert_eq!(exact["cases"][0]["on_gpu"]["held_exactly"], true);
    let loose = report(&run(&["--format", "json", "--tolerance", "rel=1e-1"]));
    assert_eq!(loose["cases"][0]["on_gpu"]["exactly_comparable"], true);
    assert_eq!(loose["cases"][0]["on_gpu"]["held_exactly"], false);
}

/// The same GPU does not make two arithmetics one.
#[test]
fn another_arithmetic_is_not_comparable() {
    let Some(gpu) = FakeGpu::new() else { return };
    let model = goldens().join("bloom_bf16_tp1/hf");
    for (golden, args, why) in [
        (
            "bloom_bf16_tp1",
            &[][..],
            "megatron arithmetic, whose products",
        ),
        (
            "transformers_bloom_bf16_tp1",
            &["--arithmetic", "megatron"][..],
            "transformers arithmetic, here megatron",
        ),
    ] {
        let copy = made_here(golden, |_| ());
        let args = [&["--mode", "isolated", "--format", "json"], args].concat();
        let output = diff(&gpu, &copy.golden(), &model, &args);
        assert_code(&output, 0);
        let on_gpu = &report(&output)["cases"][0]["on_gpu"];
        assert_eq!(on_gpu["exactly_comparable"], false);
        assert!(on_gpu["differences"].to_string().contains(why), "{on_gpu}");
    }
}

/// Slopes of the reference's own GPU are used, if they are this model's but for the last bits.
#[test]
fn slopes_of_the_reference_are_taken_over() {
    let Some(gpu) = FakeGpu::new() else { return };
    let model = goldens().join("bloom_fp32_tp1/hf");
    let run = |factor: f32| {
        let copy = made_here("transformers_bloom_fp32_tp1", |manifest| {
            let slopes = (1..=8).map(|power| 0.5_f32.powi(power) * factor);
            manifest["provenance"]["alibi_slopes"] = slopes.collect::<Vec<f32>>().into();
        });
        let stages = "h.0.self_attention.probs";
        let args = [
            "--mode",
            "chained",
            "--stages",
            stages,
            "--tolerance",
            "rel=1e-2",
            "--format",
            "json",
        ];
        let output = diff(&gpu, &copy.golden(), &model, &args);
        assert_code(&output, 0);
        report(&output)
    };
    let (own, near, other) = (run(1.0), run(1.0 + f32::EPSILON), run(1.1));
    let probabilities = |report: &Value| report["stages"][0]["mean_abs"].clone();
    assert_ne!(probabilities(&own), probabilities(&near));
    assert_eq!(own["cases"][0]["on_gpu"]["exactly_comparable"], true);
    assert_eq!(near["cases"][0]["on_gpu"]["exactly_comparable"], true);
    assert_eq!(probabilities(&own), probabilities(&other));
    let why = other["cases"][0]["on_gpu"]["differences"].to_string();
    assert!(why.contains("other ALiBi slopes"), "{why}");
}

#[test]
fn a_reference_of_another_gpu_is_not_passed_silently() {
    let Some(gpu) = FakeGpu::new() else { return };
    let copy = made_here("transformers_bloom_bf16_tp1", |manifest| {
        let gpu = &mut manifest["provenance"]["gpu"];
        gpu["compute_capability"] = "8.0".into();
        gpu["multiprocessors"] = 108.into();
        gpu["cublas"] = "11.11.3".into();
        gpu["flags"]["allow_fp16_accumulation"] = true.into();
    });
    let model = goldens().join("bloom_bf16_tp1/hf");
    let args = ["--stages", "ln_f", "--mode", "isolated"];
    let output = diff(&gpu, &copy.golden(), &model, &args);
    assert_code(&output, 0);
    insta::with_settings!({filters => vec![(r": [\d.]+ ms", ": [time]")]}, {
        insta::assert_snapshot!(stdout(&output));
    });
}

/// Metrics of the device against those of the CPU on the same arrays: a budget has stages compared on
/// the CPU.
#[test]
fn the_device_measures_what_the_cpu_measures() {
    let Some(gpu) = FakeGpu::new() else { return };
    for name in ["bloom_fp32_tp1", "bloom_bf16_tp2"] {
        let copy = Copy::of(name);
        copy.replace(
            "hf/config.json",
            "\"layer_norm_epsilon\": 1e-05",
            "\"layer_norm_epsilon\": 1e-02",
        );
        let measured = |bounds: &[&str]| {
            let bounds = bounds.iter().flat_map(|bound| ["--tolerance", bound]);
            let args: Vec<&str> = ["--mode", "isolated", "--format", "json"]
                .into_iter()
                .chain(bounds)
                .collect();
            let report = report(&diff(&gpu, &copy.golden(), &copy.model(), &args));
            let mut stages = report["stages"].as_array().unwrap().clone();
            for stage in &mut stages {
                for key in ["tolerance", "budget", "flips", "verdict"] {
                    stage.as_object_mut().unwrap().remove(key);
                }
            }
            stages
        };
        let on_device = measured(&["rel=1e-6"]);
        assert!(
            on_device
                .iter()
                .any(|stage| stage["unequal"].as_u64() > Some(100))
        );
        assert_eq!(on_device, measured(&["rel=1e-6", "rounding"]));
    }
}

/// The lines that tell how products were asked for, without where their operands lie.
fn products(log: &[String]) -> String {
    let mut seen = BTreeSet::new();
    let asked = |line: &&String| line.starts_with("gemm ") || line.starts_with("heuristic ");
    let lines = log.iter().filter(asked);
    let told = lines.map(|line| {
        let words = line.split(' ').filter(|word| {
            let place = ["a=", "b=", "c=", "bias=", "stream="];
            !place.iter().any(|key| word.starts_with(key))
        });
        words.collect::<Vec<_>>().join(" ")
    });
    told.filter(|line| seen.insert(line.clone()))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The calls of PyTorch 2.11 for these extents: see `src/backend/cuda/blas.rs`.
#[test]
fn products_are_asked_for_as_pytorch_asks() {
    let mut text = String::new();
    for name in ["transformers_bloom_bf16_tp1", "transformers_bloom_fp32_tp1"] {
        for (what, positions, batch) in [
            ("a batch of two", 20, 2),
            ("one sequence", 20, 1),
            ("one token of two sequences", 1, 2),
            ("one token", 1, 1),
        ] {
            let Some(gpu) = FakeGpu::new() else { return };
            let copy = resized(name, positions, batch);
            let model = goldens()
                .join(name.trim_start_matches("transformers_"))
                .join("hf");
            let output = diff(
                &gpu,
                &copy.golden(),
                &model,
                &["--mode", "isolated", "--stages", "{h.0.*,h.0,logits}"],
            );
            assert_code(&output, 0);
            text += &format!("{name}, {what}\n{}\n\n", products(&gpu.log()));
        }
    }
    insta::assert_snapshot!(text);
}

/// A key-value cache copies keys and values of one sequence, which else stay in the projection.
#[test]
fn a_cache_moves_keys_and_values() {
    let Some(gpu) = FakeGpu::new() else { return };
    let copy = made_here("transformers_bloom_bf16_tp1", |manifest| {
        manifest["arithmetic"]["use_cache"] = true.into();
    });
    let model = goldens().join("bloom_bf16_tp1/hf");
    let stages = "h.0.self_attention.context";
    let output = diff(
        &gpu,
        &copy.golden(),
        &model,
        &["--mode", "chained", "--stages", stages],
    );
    assert_code(&output, 0);
    let text = products(&gpu.log());
    // Keys and values are the first operands; queries are a view still.
    assert!(
        text.contains("op=TN m=20 n=20 k=8 lda=8 ldb=192 "),
        "{text}"
    );
    assert!(text.contains("op=NN m=8 n=20 k=20 lda=8 ldb=20 "), "{text}");
}

/// Megatron's ranks and transformers' `slow_but_exact` are products of slices, added up.
#[test]
fn partial_sums_are_products_of_slices() {
    let Some(gpu) = FakeGpu::new() else { return };
    let case = "cases/transformers_bloom_bf16_tp2_slow_but_exact.toml";
    let output = gpu.parity(&[
        "diff", case, "--device", "cuda", "--mode", "isolated", "--stages", "h.0",
    ]);
    assert_code(&output, 0);
    insta::assert_snapshot!(products(&gpu.log()));
}

/// What TF32, restricted reductions and other workspaces were in the reference's run they are here.
#[test]
fn settings_of_the_reference_are_taken_over() {
    let mut text = String::new();
    for name in ["transformers_bloom_bf16_tp1", "transformers_bloom_fp32_tp1"] {
        for (what, environment, split_k) in [
            (
                "restricted reductions, another workspace",
                json!({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}),
                true,
            ),
            (
                "no split sums, no epilogues",
                json!({"DISABLE_ADDMM_CUDA_LT": "1"}),
                false,
            ),
            ("no split sums", json!({}), false),
        ] {
            let Some(gpu) = FakeGpu::new() else { return };
            let copy = made_here(name, |manifest| {
                let gpu = &mut manifest["provenance"]["gpu"];
                gpu["flags"]["allow_tf32"] = true.into();
                gpu["flags"]["allow_bf16_reduced_precision_reduction"] = false.into();
                gpu["flags"]["allow_bf16_reduced_precision_reduction_split_k"] = split_k.into();
                gpu["environment"] = environment;
            });
            let model = goldens()
                .join(name.trim_start_matches("transformers_"))
                .join("hf");
            let stages = "{h.0.self_attention.dense,h.0.self_attention.context,logits}";
            let tolerance = ["--tolerance", "rel=1e-2"];
            let args = [&["--mode", "isolated", "--stages", stages], &tolerance[..]].concat();
            assert_code(&diff(&gpu, &copy.golden(), &model, &args), 0);
            text += &format!("{name}, {what}\n{}\n\n", products(&gpu.log()));
        }
    }
    insta::assert_snapshot!(text);
}

/// PyTorch gives cuBLAS more on Hopper than on any other.
#[test]
fn the_workspace_is_what_pytorch_gives_this_gpu() {
    for (capability, bytes) in [("8.0", 8_519_680), ("9.0", 32 << 20), ("10.0", 8_519_680)] {
        let Some(gpu) = FakeGpu::new() else { return };
        let gpu = gpu.with("CAPABILITY", capability);
        let case = "cases/transformers_bloom_fp32_tp1.toml";
        let args = [
            "diff", case, "--device", "cuda", "--mode", "isolated", "--stages", "logits",
        ];
        assert_code(&gpu.parity(&args), 0);
        let text = products(&gpu.log());
        assert!(
            text.contains(&format!("workspace={bytes}")),
            "sm_{capability}: {text}"
        );
    }
}

/// A golden of the first positions of a reference's one sequence, `batch` times: rows do not depend on
/// those after them or beside them.
fn resized(name: &str, positions: usize, batch: usize) -> Copy {
    let copy = Copy::of(name);
    let path = copy.golden().join("golden.json");
    let text = fs::read(&path).unwrap();
    let manifest = Manifest::parse(&path, &text).unwrap();
    for record in &manifest.stages {
        let Content::Full { files, .. } = &record.content else {
            panic!("values");
        };
        let keys = record.layout == Layout::Bnss;
        resize(
            &copy,
            &files[0].file,
            if keys { 2 } else { 1 },
            positions,
            batch,
        );
    }
    resize(&copy, &manifest.tokens.file, 1, positions, batch);
    copy
}

/// Cuts the axis of positions, and the last one of keys.
fn resize(copy: &Copy, file: &str, axis: usize, positions: usize, batch: usize) {
    let cut = copy.root().join("cut.npy");
    let tensor = npy::read(copy.golden().join(file), Some(DType::Bf16)).unwrap();
    let mut shape = tensor.shape().to_vec();
    let size = tensor.dtype().size();
    let inner: usize = shape[axis + 1..].iter().product();
    let kept = if axis == 2 { positions } else { inner };
    let mut bytes = Vec::new();
    for outer in tensor.bytes().chunks_exact(shape[axis] * inner * size) {
        for row in outer.chunks_exact(inner * size).take(positions) {
            bytes.extend_from_slice(&row[..kept * size]);
        }
    }
    shape[0] *= batch;
    shape[axis] = positions;
    if axis == 2 {
        shape[3] = positions;
    }
    let bytes = bytes.repeat(batch);
    let resized = match size {
        2 => Tensor::from_vec(
            &shape,
            bytes
                .chunks_exact(2)
                .map(|b| bf16::from_ne_bytes([b[0], b[1]]))
                .collect(),
        ),
        4 => Tensor::from_vec(
            &shape,
            bytes
                .chunks_exact(4)
                .map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        ),
        _ => Tensor::from_vec(
            &shape,
            bytes
                .chunks_exact(8)
                .map(|b| i64::from_ne_bytes(b.try_into().unwrap()))
                .collect(),
        ),
    };
    npy::write(&cut, &resized.unwrap()).unwrap();
    copy.edit(file, true, |bytes| *bytes = fs::read(&cut).unwrap());
}

/// A golden of a dump whose settings are changed as if it had been made on a GPU.
fn dumped_on_a_gpu(
    change: impl FnOnce(&mut Value),
) -> (tempfile::TempDir, parity::Result<Manifest>) {
    let dump = common::raw_dump(&goldens().join("bloom_bf16_tp1"));
    let path = dump.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["device"] = "NVIDIA H100 80GB HBM3".into();
    config["gpu"] = json!({
        "name": "NVIDIA H100 80GB HBM3",
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "driver": "580.159.03",
        "cublas": "13.1.0",
        "cublaslt": "13.1.0",
        "cublas_sha256": null,
        "cublaslt_sha256": null,
        "flags": {
            "allow_tf32": true,
            "allow_fp16_reduced_precision_reduction": true,
            "allow_bf16_reduced_precision_reduction": false,
            "allow_fp16_accumulation": false,
            "preferred_blas_library": "cublas",
            "tunable_op": false,
        },
        "environment": {"NVIDIA_TF32_OVERRIDE": "0"},
    });
    config["masked_softmax_fusion"] = true.into();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
    let golden = dump.path().join("golden");
    let source = Some(Framework::MegatronDeepspeed);
    let imported = import(dump.path(), source, &golden, false);
    (dump, imported.map(|imported| imported.manifest))
}

#[test]
fn a_dump_of_a_gpu_says_what_made_it() {
    let (_, manifest) = dumped_on_a_gpu(|_| ());
    let manifest = manifest.unwrap();
    let gpu = manifest.provenance.gpu.unwrap();
    assert_eq!(gpu.multiprocessors, 132);
    assert!(gpu.flags.allow_tf32 && !gpu.flags.allow_bf16_reduced_precision_reduction);
    assert!(!manifest.provenance.extra.contains_key("gpu"));
    assert_eq!(manifest.arithmetic.summation(), Summation::MegatronCuda);

    let (_, refused) = dumped_on_a_gpu(|config| config["gpu"]["multiprocessors"] = "many".into());
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("gpu: expected a GPU as parity_dump.py describes it"),
        "{refused}"
    );
}

/// A reference of Megatron's fused kernels is met by kernels of ours with their trees.
#[test]
fn fused_kernels_run_where_the_reference_had_them() {
    let (dump, manifest) = dumped_on_a_gpu(|_| ());
    manifest.unwrap();
    let of_reference = goldens().join("bloom_bf16_tp1");
    // The converted model, and the shards, which know nothing of the run that made the golden.
    for (model, args) in [
        ("hf", &["--arithmetic", "megatron"][..]),
        ("checkpoint", &[][..]),
    ] {
        let Some(gpu) = FakeGpu::new() else { return };
        let args = [&["--mode", "isolated"], args].concat();
        let golden = dump.path().join("golden");
        let output = diff(&gpu, &golden, &of_reference.join(model), &args);
        assert_code(&output, 0);
        let log = gpu.log();
        let launched = |kernel: &str| {
            let line = format!("launch kernel={kernel} ");
            log.iter()
                .filter(|logged| logged.starts_with(&line))
                .count()
        };
        // Two norms and a softmax a block, and the first and the last norm.
        let norms = [launched("megatron_layer_norm"), launched("layer_norm")];
        let softmaxes = [launched("megatron_softmax"), launched("softmax_warp")];
        assert_eq!((norms, softmaxes), ([6, 0], [2, 0]), "{model}");
    }
}

/// The calls between the first kernel and the last that wait for the GPU, apart from those for a pinned
/// buffer to be free.
#[test]
fn steps_are_sent_without_waiting_for_them() {
    let Some(gpu) = FakeGpu::new() else { return };
    let copy = made_here("transformers_bloom_bf16_tp1", |_| ());
    let model = goldens().join("bloom_bf16_tp1/hf");
    let output = diff(&gpu, &copy.golden(), &model, &["--stages", "h.*"]);
    assert_code(&output, 0);
    let log = gpu.log();
    let is_work = |line: &String| line.starts_with("launch ") || line.starts_with("gemm ");
    let first = log.iter().position(is_work).unwrap();
    let last = log.iter().rposition(is_work).unwrap();
    let sent = &log[first..last];
    assert!(sent.iter().filter(|line| is_work(line)).count() > 100);
    let waits: Vec<_> = sent
        .iter()
        .filter(|line| line.starts_with("sync stream") || line.starts_with("sync context"))
        .collect();
    assert_eq!(waits, [""; 0]);
    // Everything was given back.
    let release = log
        .iter()
        .find(|line| line.starts_with("release "))
        .unwrap();
    assert_eq!(
        release,
        "release allocations=0 pinned=0 streams=0 events=0 modules=0"
    );
}

/// A model of `layers` blocks, alternating those of a reference's two, and a golden of its logits, which
/// are not its own.
fn deepened(layers: usize) -> Copy {
    let copy = made_here("transformers_bloom_fp32_tp1", |manifest| {
        manifest["model"]["n_layer"] = layers.into();
        let stages = manifest["stages"].as_array_mut().unwrap();
        stages.retain(|stage| stage["stage"] == "logits");
    });
    let model = goldens().join("bloom_fp32_tp1/hf");
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let weights = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let of_block = |name: &str| name.split('.').find_map(|part| part.parse::<usize>().ok());
    let tensors = weights.tensors().into_iter().flat_map(|(name, view)| {
        let numbers: Vec<Option<usize>> = match of_block(&name) {
            None => vec![None],
            Some(block) => (0..layers).filter(|n| n % 2 == block).map(Some).collect(),
        };
        numbers.into_iter().map(move |number| {
            let parts = name
                .split('.')
                .map(|part| match (part.parse::<usize>(), number) {
                    (Ok(_), Some(number)) => number.to_string(),
                    _ => part.to_owned(),
                });
            (parts.collect::<Vec<_>>().join("."), view.clone())
        })
    });
    let tensors: Vec<_> = tensors.collect();
    let folder = copy.root().join("deep");
    fs::create_dir(&folder).unwrap();
    safetensors::serialize_to_file(tensors, None, &folder.join("model.safetensors")).unwrap();
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["n_layer"] = layers.into();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    copy
}

#[test]
fn device_memory_is_bounded_by_two_layers_and_not_by_the_model() {
    let Some(gpu) = FakeGpu::new() else { return };
    let run = |layers: usize, args: &[&str]| {
        let copy = deepened(layers);
        let args = [&["--mode", "chained", "--format", "json"], args].concat();
        diff(&gpu, &copy.golden(), &copy.root().join("deep"), &args)
    };
    let peak = |layers: usize| {
        let output = run(layers, &[]);
        // Logits of other models: out of tolerance, and computed.
        assert!(
            [0, 1].contains(&output.status.code().unwrap()),
            "{}",
            stderr(&output)
        );
        report(&output)["cases"][0]["on_gpu"]["peak_memory"]
            .as_u64()
            .unwrap()
    };
    let (shallow, deep) = (peak(4), peak(24));
    assert_eq!(shallow, deep);
    // A block's parameters: 12 hidden² and 13 hidden of fp32; its values, recorded or computed, for 20
    // tokens; the embedding, which is the largest layer here, and the logits.
    let block = 4 * (12 * 64 * 64 + 13 * 64);
    let embedding = 4 * 512 * 64;
    let values = 4 * 20 * (18 * 64 + 3 * 8 * 20 + 512);
    assert!(
        deep <= 2 * block.max(embedding) + embedding + 2 * values,
        "{deep}"
    );

    let capped = run(24, &["--gpu-memory", "1MB"]);
    assert_eq!(capped.status.code(), Some(1));
    let capped = report(&capped)["cases"][0]["on_gpu"]["peak_memory"]
        .as_u64()
        .unwrap();
    assert!(capped <= 1_000_000, "{capped}");
}

/// What is said, and the exit code, when something is not there or fails; never a panic.
#[test]
fn every_fault_is_one_clear_error() {
    let mut text = String::new();
    let mut fault = |what: &str, set: &[(&str, &str)], args: &[&str]| {
        let gpu = set
            .iter()
            .fold(FakeGpu::new()?, |gpu, (name, value)| gpu.with(name, value));
        let case = [
            "diff",
            "cases/transformers_bloom_fp32_tp1.toml",
            "--device",
            "cuda",
        ];
        let output = gpu.parity(&[&case, args].concat());
        let folder = gpu.libraries().display().to_string();
        let message = stderr(&output).replace(&folder, "[libraries]");
        text += &format!(
            "{what}: exit {:?}\n{message}\n",
            output.status.code().unwrap_or(-1)
        );
        Some(())
    };
    let mut faults = || {
        fault("no device", &[("DEVICES", "0")], &[])?;
        fault(
            "a driver that finds no device",
            &[("FAULT", "cuInit:code=100")],
            &[],
        )?;
        fault("an old driver", &[("DRIVER", "11080")], &[])?;
        fault("an old GPU", &[("CAPABILITY", "7.5")], &[])?;
        fault("an old cuBLAS", &[("CUBLAS", "110300")], &[])?;
        fault(
            "libraries that are not there",
            &[],
            &["--cuda-libs", "docs"],
        )?;
        fault(
            "kernels that do not compile",
            &[("FAULT", "nvrtcCompileProgram")],
            &[],
        )?;
        fault(
            "a module that does not load",
            &[("FAULT", "cuModuleLoadData:code=209")],
            &[],
        )?;
        fault("no memory", &[("FAULT", "cuMemAllocAsync:after=40")], &[])?;
        fault("a small GPU", &[("MEMORY", "40000000")], &[])?;
        fault("too little granted", &[], &["--gpu-memory", "200KB"])?;
        fault("a GPU that is lost", &[("FAULT", "lost:after=30")], &[])?;
        fault(
            "a product that fails",
            &[("FAULT", "cublasLtMatmul:code=13")],
            &[],
        )?;
        fault(
            "a batched product that fails",
            &[("FAULT", "cublasSgemmStridedBatched:code=14")],
            &[],
        )
    };
    if faults().is_some() {
        insta::assert_snapshot!(text);
    }
}

/// Every call that a run makes, failing for the first time and in mid-run: one error and its exit code,
/// or a run that did without.
#[test]
fn no_call_that_fails_ends_in_a_panic() {
    let Some(gpu) = FakeGpu::new() else { return };
    let case = [
        "diff",
        "cases/transformers_bloom_fp32_tp1.toml",
        "--device",
        "cuda",
        "--stages",
        "{h.0*,logits}",
    ];
    let calls = [
        "cuCtxSetCurrent",
        "cuCtxSynchronize",
        "cuDeviceGet",
        "cuDeviceGetAttribute",
        "cuDeviceGetCount",
        "cuDeviceGetName",
        "cuDevicePrimaryCtxRetain",
        "cuDeviceTotalMem_v2",
        "cuDriverGetVersion",
        "cuEventCreate",
        "cuEventDestroy_v2",
        "cuEventElapsedTime_v2",
        "cuEventRecord",
        "cuEventSynchronize",
        "cuInit",
        "cuLaunchKernel",
        "cuMemAllocAsync",
        "cuMemFreeAsync",
        "cuMemFreeHost",
        "cuMemHostAlloc",
        "cuMemcpyDtoHAsync_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuMemsetD8Async",
        "cuModuleGetFunction",
        "cuModuleLoadData",
        "cuModuleUnload",
        "cuStreamCreate",
        "cuStreamDestroy_v2",
        "cuStreamSynchronize",
        "cuStreamWaitEvent",
        "cublasCreate_v2",
        "cublasDestroy_v2",
        "cublasGetProperty",
        "cublasSetStream_v2",
        "cublasSetWorkspace_v2",
        "cublasSetMathMode",
        "cublasSgemm_v2",
        "cublasSgemmStridedBatched",
        "cublasLtMatmulDescCreate",
        "cublasLtMatmulDescDestroy",
        "cublasLtMatrixLayoutDestroy",
        "cublasLtMatmulPreferenceDestroy",
        "cublasLtMatmulAlgoConfigGetAttribute",
        "cublasLtMatmulDescSetAttribute",
        "cublasLtMatrixLayoutCreate",
        "cublasLtMatmulPreferenceCreate",
        "cublasLtMatmulPreferenceSetAttribute",
        "cublasLtMatmulAlgoGetHeuristic",
        "cublasLtMatmul",
        "nvrtcVersion",
        "nvrtcCreateProgram",
        "nvrtcCompileProgram",
        "nvrtcGetCUBINSize",
        "nvrtcGetCUBIN",
        "nvrtcDestroyProgram",
    ];
    for call in common::sample(calls, 9) {
        for after in [0, 9] {
            let gpu = FakeGpu::new()
                .unwrap()
                .with("FAULT", &format!("{call}:after={after}"));
            let output = gpu.parity(&case);
            let failed = format!("fault call={call} ");
            let reached = gpu.log().iter().any(|line| line.starts_with(&failed));
            assert!(reached || after > 0, "no run calls {call}");
            let message = stderr(&output);
            let code = output.status.code();
            assert!(!message.contains("panicked"), "{call}: {message}");
            assert!(
                code == Some(0) || code == Some(3),
                "{call}: {code:?} {message}"
            );
            assert_eq!(
                code == Some(3),
                message.starts_with("error: cuda: "),
                "{call}: {message}"
            );
        }
    }
    drop(gpu);
}

/// Libraries without a function that is called.
#[test]
fn a_function_that_a_library_lacks_is_named() {
    let Some(gpu) = FakeGpu::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcublas.so.13", "libcublasLt.so.13", "libnvrtc.so.13"] {
        fs::copy(gpu.libraries().join(name), folder.path().join(name)).unwrap();
    }
    let cuda = gpu.libraries().join("libcuda.so.1");
    let cublas = folder.path().join("libcublas.so.13");
    let lacking = [
        "-DcublasGemmEx=another",
        cuda.to_str().unwrap(),
        "-fvisibility=hidden",
    ];
    common::cpp::compile("blas.cpp", &cublas, &lacking);
    let libraries = folder.path().to_str().unwrap();
    let case = [
        "diff",
        "cases/transformers_bloom_fp32_tp1.toml",
        "--device",
        "cuda",
    ];
    let output = gpu.parity(&[&case[..], &["--cuda-libs", libraries]].concat());
    assert_code(&output, 3);
    let message = stderr(&output).replace(libraries, "[libraries]");
    insta::assert_snapshot!(message);
}

/// A driver with the functions that are looked up, and no other: nothing else is called.
#[test]
fn the_driver_needs_no_function_that_is_not_looked_up() {
    let Some(gpu) = FakeGpu::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let exported = folder.path().join("exported");
    // What the fake libraries call of each other.
    let names = Probe::DRIVER_FUNCTIONS.join("; ");
    let script = format!("{{ global: {names}; fake*; local: *; }};");
    fs::write(&exported, script).unwrap();
    let driver = folder.path().join("libcuda.so.1");
    let only = format!("-Wl,--version-script={}", exported.display());
    let object = gpu.libraries().join("driver.o");
    let object = object.to_str().unwrap();
    common::cpp::compile(object, &driver, &["-Wl,-soname,libcuda.so.1", &only]);
    std::os::unix::fs::symlink(&driver, folder.path().join("libcuda.so")).unwrap();
    let path = format!("{}:{}", folder.path().display(), gpu.libraries().display());
    for pools in ["0", "1"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_parity"))
            .args([
                "diff",
                "cases/transformers_bloom_fp16_tp1.toml",
                "--device",
                "cuda",
            ])
            .env("LD_LIBRARY_PATH", &path)
            .env("PARITY_CUDA_LIBS", gpu.libraries())
            .env("PARITY_FAKE_POOLS", pools)
            .env("XDG_CACHE_HOME", folder.path())
            .output()
            .expect("parity runs");
        assert_code(&output, 0);
    }
}

#[test]
fn auto_takes_what_is_there_and_says_so() {
    let Some(gpu) = FakeGpu::new() else { return };
    let case = [
        "diff",
        "cases/bloom_fp32_tp1.toml",
        "--device",
        "auto",
        "--stages",
        "ln_f",
    ];
    let output = gpu.parity(&case);
    assert_code(&output, 0);
    insta::assert_snapshot!(stderr(&output));
    assert!(stdout(&output).contains("on cuda (Fake GPU)"));
    let none = gpu.with("DEVICES", "0").parity(&case);
    assert_code(&none, 0);
    insta::assert_snapshot!(stderr(&none));
    assert!(stdout(&none).contains("arithmetic on cpu against"));
}

#[test]
fn doctor_says_what_is_there_and_what_is_missing() {
    let Some(gpu) = FakeGpu::new() else { return };
    let doctor = |gpu: &FakeGpu, args: &[&str]| {
        let output = gpu.parity(&[&["doctor"], args].concat());
        assert_code(&output, 0);
        let text = stdout(&output).replace(gpu.libraries().to_str().unwrap(), "[libraries]");
        // The first line is of the machine at hand.
        text.split_once('\n').unwrap().1.to_owned()
    };
    let text = doctor(&gpu, &[]);
    let documented = fs::read_to_string("docs/gpu.md").unwrap();
    for fused in text
        .lines()
        .filter_map(|line| line.strip_prefix("fused     "))
    {
        assert!(
            documented.contains(fused),
            "docs/gpu.md does not say: {fused}"
        );
    }
    insta::assert_snapshot!(text);
    let Some(old) = FakeGpu::new() else { return };
    let old = doctor(&old.with("CAPABILITY", "7.5"), &[]);
    assert!(old.contains("unusable  cuda: Fake GPU (sm_75)"), "{old}");
    let Some(broken) = FakeGpu::new() else { return };
    let broken = doctor(&broken.with("FAULT", "nvrtcCompileProgram"), &[]);
    assert!(
        broken.contains("unusable  cuda: NVRTC cannot compile"),
        "{broken}"
    );
    let none = gpu.with("DEVICES", "0");
    insta::assert_snapshot!(doctor(&none, &["--cuda-libs", "docs"]));
}

/// Whatever this machine has.
#[test]
fn a_device_that_is_not_there_has_an_exit_code_of_its_own() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_parity"))
        .args(["diff", "--device", "cuda"])
        .env("CUDA_VISIBLE_DEVICES", "")
        .output()
        .expect("parity runs");
    assert_code(&output, 3);
    assert!(
        stderr(&output).starts_with("error: cuda: "),
        "{}",
        stderr(&output)
    );
}
