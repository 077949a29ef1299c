//! The tolerances that hold where a case file says nothing: the project's purpose.
//!
//! * On a GPU everything is exact, where the reference comes from the same kind of GPU and libraries.
//!   Where it does not, no two runs could be: what holds on a CPU holds there, and says so.
//! * On a CPU the word embeddings are exact; after the embedding LayerNorm the difference is at
//!   most 0.05; the statistics of the final logits differ by at most 1e-6. These are the figures of
//!   the published BLOOM conversion, and of fp32. A few half-precision logits that are rounded the
//!   other way move a mean by more: isolated, their means are held to what rounding makes of them.
//!   Those that were *chained* through a whole model differ by an amount that grows with the logits and
//!   with the type's unit roundoff: there the bound is in proportion to both.
//! * In between, and on top of the two named figures, a stage that ran on the reference's own values
//!   is held to its [rounding budget](crate::compare::Budget), and a half-precision one to the number of
//!   elements that may differ at all.
//! * Where there is no budget (chained, or against statistics) the relative Frobenius norm is
//!   bounded by what correct conversions were measured to need (see the constants).

use super::{Mode, ResolvedTolerance, ToleranceContext};
use crate::arch::Role;
use crate::backend::Device;
use crate::compare::{Bound, Tolerance};
use crate::tensor::DType;

/// After the embedding LayerNorm, on CPU; absolute.
const EMBEDDING_NORM: f64 = 0.05;
/// Statistics of the final logits, on CPU; absolute.
const LOGITS: f64 = 1e-6;
/// Statistics of half-precision logits, chained, in unit roundoffs of their root mean square: between
/// transformers' and Megatron's arithmetic up to 0.013 were measured of BLOOM, 0.078 of Llama and
/// GPT-2.
const LOGITS_CHAINED_HALF: f64 = 0.125;
/// Probability of a stage's flips: a false alarm in a thousand models of a thousand stages.
const FLIPS: f64 = 1e-6;
/// fp32, isolated, without a budget: ten times what correct conversions needed (1.6e-7), a seventh of
/// the smallest real bug tried (a wrong LayerNorm eps, 1.4e-5).
const ISOLATED_FP32: f64 = 2e-6;
/// Half types, isolated, without a budget, in unit roundoffs: a stage with other rounding points than
/// the reference is off by up to about half of one.
const ISOLATED_HALF: f64 = 1.0;
/// Chained, in isolated tolerances times the square root of the number of blocks before, as independent
/// errors grow: bf16 needed up to 1e-2 after three blocks, fp32 8e-7.
const CHAINED: f64 = 4.0;
/// Of what is multiplied by another value that is off, and of what is made of that, in what holds elsewhere: a gated
/// MLP's inner values needed 1.1 times that in bf16, what experts give 1.01 times in fp16.
const OF_PRODUCTS: f64 = 2.0;
/// The most blocks that count: a file may name any number, and no bound may grow beyond noise.
const MOST_BLOCKS: usize = 128;

/// The built-in tolerance.
pub(super) fn tolerance(context: &ToleranceContext<'_>) -> ResolvedTolerance {
    let on_cuda = context.device == Some(Device::Cuda);
    let resolved = |bounds: Vec<Bound>, origin: &str| ResolvedTolerance {
        tolerance: Tolerance { bounds },
        origin: if on_cuda && !context.same_kernels {
            format!("built-in, bit-exact comparison impossible, {origin}")
        } else {
            format!("built-in, {origin}")
        },
    };
    if on_cuda && context.same_kernels {
        return resolved(vec![Bound::Exact], "cuda");
    }
    let kind = format!("{} {}", context.dtype, context.mode);
    let (mut bounds, origin) = match context.role {
        Some(Role::Embedding) => return resolved(vec![Bound::Exact], "word embeddings"),
        Some(Role::EmbeddingNorm) => (
            vec![Bound::Abs(EMBEDDING_NORM)],
            format!("embedding norm and {kind}"),
        ),
        Some(Role::Logits) => (vec![logits(context)], format!("logits and {kind}")),
        // What flips by noise is taken from the reference, or within the choice's error bound.
        Some(Role::Choice) if !context.budgeted => {
            return resolved(vec![Bound::Exact], "choice of experts");
        }
        Some(Role::Choice) => (Vec::new(), "choice of experts".into()),
        _ => (Vec::new(), kind),
    };
    if !context.budgeted {
        bounds.push(Bound::Rel(relative(context)));
        return resolved(bounds, &origin);
    }
    bounds.push(Bound::Rounding);
    if context.dtype.is_half() {
        bounds.push(Bound::Flips(FLIPS));
    }
    resolved(bounds, &origin)
}

fn relative(context: &ToleranceContext<'_>) -> f64 {
    two_digits(match context.mode {
        Mode::Isolated => isolated(context.dtype),
        Mode::Chained | Mode::Recorded => {
            let blocks = blocks_before(context).clamp(1, MOST_BLOCKS);
            let of_product = match context.role {
                Some(
                    Role::Gated
                    | Role::MlpDown
                    | Role::RouterWeights
                    | Role::Weighted
                    | Role::Experts,
                ) => OF_PRODUCTS,
                _ => 1.0,
            };
            of_product * after_a_block(context.dtype) * (blocks as f64).sqrt()
        }
    })
}

fn isolated(dtype: DType) -> f64 {
    match half_roundoff(dtype) {
        Some(roundoff) => ISOLATED_HALF * roundoff,
        None => ISOLATED_FP32,
    }
}

/// What a value of this type may be off by after one block: the least there is where errors grow.
pub(crate) fn after_a_block(dtype: DType) -> f64 {
    isolated(dtype) * CHAINED
}

/// How many blocks a value has come through, its own included; all of them after the last.
fn blocks_before(context: &ToleranceContext<'_>) -> usize {
    match (context.stage.layer(), context.role) {
        (Some(layer), _) => layer.saturating_add(1),
        (None, Some(Role::Embedding | Role::EmbeddingNorm)) => 0,
        (None, _) => context.layers,
    }
}

fn logits(context: &ToleranceContext<'_>) -> Bound {
    match (context.mode, half_roundoff(context.dtype)) {
        (_, None) => Bound::Stat(LOGITS),
        (Mode::Isolated, Some(_)) if context.budgeted => Bound::StatRounding,
        (_, Some(roundoff)) => Bound::StatRms(two_digits(LOGITS_CHAINED_HALF * roundoff)),
    }
}

fn half_roundoff(dtype: DType) -> Option<f64> {
    dtype.unit_roundoff().filter(|_| dtype.is_half())
}

/// The figure that is printed is the figure that applies.
pub(crate) fn two_digits(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(role: Role, device: Device, mode: Mode, dtype: DType) -> String {
        resolved_of(role, device, mode, dtype, mode == Mode::Isolated)
    }

    fn resolved_of(role: Role, device: Device, mode: Mode, dtype: DType, budgeted: bool) -> String {
        let device = Some(device);
        let layers = 2;
        let context = ToleranceContext {
            stage: &"a.stage".into(),
            role: Some(role),
            device,
            same_kernels: true,
            mode,
            dtype,
            budgeted,
            layers,
        };
        tolerance(&context).tolerance.to_string()
    }

    #[test]
    fn the_published_figures_are_the_defaults() {
        let of = |role, device, mode| resolved(role, device, mode, DType::F32);
        for mode in [Mode::Isolated, Mode::Chained] {
            assert_eq!(of(Role::Block, Device::Cuda, mode), "exact");
            assert_eq!(of(Role::Embedding, Device::Cpu, mode), "exact");
        }
        assert_eq!(
            of(Role::EmbeddingNorm, Device::Cpu, Mode::Isolated),
            "abs 5e-2, rounding"
        );
        assert_eq!(
            of(Role::Logits, Device::Cpu, Mode::Isolated),
            "stat 1e-6, rounding"
        );
        assert_eq!(
            of(Role::Logits, Device::Cpu, Mode::Chained),
            "stat 1e-6, rel 1.1e-5"
        );
        assert_eq!(
            of(Role::Activation, Device::Cpu, Mode::Isolated),
            "rounding"
        );
        let against_statistics =
            resolved_of(Role::Block, Device::Cpu, Mode::Isolated, DType::F32, false);
        assert_eq!(against_statistics, "rel 2e-6");
    }

    #[test]
    fn a_reference_of_other_kernels_is_not_met_exactly_and_says_so() {
        let resolved = tolerance(&ToleranceContext {
            stage: &"a.stage".into(),
            role: Some(Role::Block),
            device: Some(Device::Cuda),
            same_kernels: false,
            mode: Mode::Isolated,
            dtype: DType::Bf16,
            budgeted: true,
            layers: 2,
        });
        assert_eq!(resolved.tolerance.to_string(), "rounding, flips 1e-6");
        let origin = "built-in, bit-exact comparison impossible, bf16 isolated";
        assert_eq!(resolved.origin, origin);
    }

    #[test]
    fn half_types_are_bounded_in_their_unit_roundoff() {
        let of = |role, mode, dtype| resolved(role, Device::Cpu, mode, dtype);
        assert_eq!(
            of(Role::Block, Mode::Isolated, DType::Bf16),
            "rounding, flips 1e-6"
        );
        assert_eq!(of(Role::Block, Mode::Chained, DType::F16), "rel 2.8e-3");
        assert_eq!(
            of(Role::Logits, Mode::Isolated, DType::Bf16),
            "stat_rounding, rounding, flips 1e-6"
        );
        assert_eq!(
            of(Role::Logits, Mode::Chained, DType::Bf16),
            "stat_rms 4.9e-4, rel 2.2e-2"
        );
    }

    #[test]
    fn no_number_of_blocks_makes_a_bound_of_noise() {
        let rel = |stage: &str, layers| {
            let context = ToleranceContext {
                stage: &stage.into(),
                role: None,
                device: None,
                same_kernels: false,
                mode: Mode::Recorded,
                dtype: DType::Bf16,
                budgeted: false,
                layers,
            };
            tolerance(&context).tolerance.to_string()
        };
        assert_eq!(rel("ln_f", 2), "rel 2.2e-2");
        let deep = [128, 2000, usize::MAX].map(|layers| rel("ln_f", layers));
        assert_eq!(deep, ["rel 1.8e-1"; 3]);
        // However deep the model, a value has come through the blocks before it.
        assert_eq!(rel("h.1", 2000), "rel 2.2e-2");
        assert_eq!(rel("h.0.mlp.gelu", 2000), "rel 1.6e-2");
    }
}
