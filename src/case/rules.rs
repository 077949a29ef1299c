//! Which tolerance applies where.

use super::{Mode, Pattern, ResolvedTolerance, ToleranceContext, defaults};
use crate::backend::Device;
use crate::compare::Tolerance;

/// A tolerance for the stages that match, on a device and in a mode if it names them.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The stages.
    pub stages: Pattern,
    /// The device; every one if `None`.
    pub device: Option<Device>,
    /// The mode; every one if `None`.
    pub mode: Option<Mode>,
    /// What must hold.
    pub tolerance: Tolerance,
    /// Where it is written: `cases/bloom.toml:7`.
    pub origin: String,
}

/// The rules of a case. One that names more of a stage's name wins over one that names less, then
/// one for a device over one for all, then one for a mode, then the later one. One that asks for a
/// budget applies where there is one. Where none applies, the built-in defaults do.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// In the order they are written.
    pub rules: Vec<Rule>,
}

impl Rules {
    /// The tolerance that applies.
    pub fn resolve(&self, context: &ToleranceContext<'_>) -> ResolvedTolerance {
        let applying = self.rules.iter().filter(|rule| rule.applies(context));
        // `max_by_key` takes the last of equals: the later rule.
        let rule = applying.max_by_key(|rule| {
            let specificity = rule.stages.specificity(context.stage);
            (specificity, rule.device.is_some(), rule.mode.is_some())
        });
        match rule {
            Some(rule) => ResolvedTolerance {
                tolerance: rule.tolerance.clone(),
                origin: rule.origin.clone(),
            },
            None => defaults::tolerance(context),
        }
    }
}

impl Rule {
    fn applies(&self, context: &ToleranceContext<'_>) -> bool {
        self.stages.matches(context.stage)
            && (context.budgeted || !self.tolerance.needs_budget())
            && self
                .device
                .is_none_or(|device| Some(device) == context.device)
            && self.mode.is_none_or(|mode| mode == context.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Bound;
    use crate::tensor::DType;

    fn rule(stages: &str, device: Option<Device>, mode: Option<Mode>, bound: f64) -> Rule {
        Rule {
            stages: stages.parse().unwrap(),
            device,
            mode,
            tolerance: Tolerance {
                bounds: vec![Bound::Rel(bound)],
            },
            origin: bound.to_string(),
        }
    }

    fn origin(rules: &Rules, stage: &str, device: Device, mode: Mode) -> String {
        let context = ToleranceContext {
            stage: &stage.into(),
            role: None,
            device: Some(device),
            same_kernels: true,
            mode,
            dtype: DType::F32,
            budgeted: false,
            layers: 2,
        };
        rules.resolve(&context).origin
    }

    #[test]
    fn the_most_specific_rule_wins_and_the_later_of_equals() {
        let rules = Rules {
            rules: vec![
                rule("h.*.mlp.*", None, None, 1.0),
                rule("h.*", Some(Device::Cpu), None, 2.0),
                rule("h.*", None, None, 3.0),
                rule("h.*", Some(Device::Cpu), Some(Mode::Chained), 4.0),
                rule("ln_f", None, None, 5.0),
                rule("ln_f", None, None, 6.0),
            ],
        };
        let of = |stage, device, mode| origin(&rules, stage, device, mode);
        assert_eq!(of("h.0.mlp.gelu", Device::Cpu, Mode::Chained), "1");
        assert_eq!(of("h.0", Device::Cpu, Mode::Isolated), "2");
        assert_eq!(of("h.0", Device::Cuda, Mode::Isolated), "3");
        assert_eq!(of("h.0", Device::Cpu, Mode::Chained), "4");
        assert_eq!(of("ln_f", Device::Cpu, Mode::Chained), "6");
        assert!(of("logits", Device::Cuda, Mode::Chained).contains("built-in"));
    }
}
