//! The tolerances that hold where a case file says nothing: the project's purpose.
//!
//! * On a GPU everything is exact.
//! * On a CPU the word embeddings are exact; after the embedding LayerNorm the difference is at
//!   most 0.05; the statistics of the final logits differ by at most 1e-6. These are the figures of
//!   the published BLOOM conversion.
//! * In between, and on top of the two named figures, the relative Frobenius norm is bounded by
//!   what correct conversions were measured to need (see the constants).

use super::rules::{InForce, Situation};
use super::Mode;
use crate::backend::Device;
use crate::compare::{Bound, Tolerance};
use crate::tensor::DType;

/// After the embedding LayerNorm, on CPU; absolute.
const EMBEDDING_NORM: f64 = 0.05;
/// Statistics of the final logits, on CPU; absolute.
const LOGITS: f64 = 1e-6;
/// fp32, isolated: ten times what correct conversions needed (1.6e-7), a seventh of the smallest
/// real bug tried (a wrong LayerNorm eps, 1.4e-5).
const ISOLATED_FP32: f64 = 2e-6;
/// Half types, isolated, in unit roundoffs: a stage that rounds at other places than the reference
/// is off by up to about half of one.
const ISOLATED_HALF: f64 = 1.0;
/// Chained, in isolated tolerances times the square root of the number of blocks, as independent
/// errors grow: bf16 needed up to 1e-2 after three blocks, fp32 8e-7.
const CHAINED: f64 = 4.0;

/// The built-in tolerance.
pub(super) fn tolerance(situation: &Situation<'_>) -> InForce {
    let in_force = |bounds: Vec<Bound>, origin: &str| InForce {
        tolerance: Tolerance { bounds },
        origin: format!("built-in, {origin}"),
    };
    if situation.device == Some(Device::Cuda) {
        return in_force(vec![Bound::Exact], "cuda");
    }
    let rel = Bound::Rel(relative(situation));
    let kind = format!("{} {}", situation.dtype, situation.mode);
    match situation.stage.as_str() {
        "word_embeddings" => in_force(vec![Bound::Exact], "word embeddings"),
        "word_embeddings_layernorm" => {
            let origin = format!("embedding norm and {kind}");
            in_force(vec![Bound::Abs(EMBEDDING_NORM), rel], &origin)
        }
        "logits" => {
            let origin = format!("logits and {kind}");
            in_force(vec![Bound::Stat(logits(situation)), rel], &origin)
        }
        _ => in_force(vec![rel], &kind),
    }
}

fn relative(situation: &Situation<'_>) -> f64 {
    let isolated = match situation.dtype.is_half() {
        true => ISOLATED_HALF * situation.dtype.unit_roundoff().unwrap_or(0.0),
        false => ISOLATED_FP32,
    };
    match situation.mode {
        Mode::Isolated => isolated,
        Mode::Chained | Mode::Recorded => {
            isolated * CHAINED * (situation.layers.max(1) as f64).sqrt()
        }
    }
}

fn logits(situation: &Situation<'_>) -> f64 {
    let _ = (situation, DType::F32);
    LOGITS
}
