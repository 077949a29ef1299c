//! Formulas of one number as CUDA source: evaluated on names instead of numbers, with every operation
//! written down.

use super::formula::Real;
use std::cell::RefCell;
use std::ops::{Add, Div, Mul};

/// A formula as a CUDA function of this name: in fp32, and with `EACH` rounded to the storage type
/// after every operation. Constants are fp32 to the bit and never rounded; exp, tanh and erf are CUDA's
/// own of fp32, which torch calls too.
pub(crate) fn formula_source<const N: usize>(
    name: &str,
    parameters: [&'static str; N],
    formula: impl for<'t> FnOnce([Traced<'t>; N]) -> Traced<'t>,
) -> String {
    let statements = RefCell::default();
    let result = formula(parameters.map(|name| Traced {
        operand: Operand::Parameter(name),
        statements: Some(&statements),
    }));
    let parameters = parameters.map(|name| format!("float {name}")).join(", ");
    let body: String = statements
        .borrow()
        .iter()
        .enumerate()
        .map(|(number, expression)| format!("    const float v{number} = {expression};\n"))
        .collect();
    format!(
        "namespace formula {{\n\
         template <bool EACH>\n\
         __device__ float {name}({parameters}) {{\n{body}    return {};\n}}\n\
         }}  // namespace formula\n",
        result.operand.source()
    )
}

/// A number that is not known yet. What is computed of it becomes a statement each.
#[derive(Clone, Copy)]
pub(crate) struct Traced<'t> {
    operand: Operand,
    /// Where statements go; constants come from nowhere.
    statements: Option<&'t RefCell<Vec<String>>>,
}

#[derive(Clone, Copy)]
enum Operand {
    Constant(f32),
    Parameter(&'static str),
    Statement(usize),
}

impl Operand {
    fn source(self) -> String {
        match self {
            Self::Constant(value) => {
                format!("__int_as_float({:#010x}) /* {value} */", value.to_bits())
            }
            Self::Parameter(name) => name.to_owned(),
            Self::Statement(number) => format!("v{number}"),
        }
    }
}

impl Traced<'_> {
    fn operator(self, operator: char, other: Self) -> Self {
        let [left, right] = [self, other].map(|traced| traced.operand.source());
        let operation = format!("settled<EACH>({left} {operator} {right})");
        Self {
            statements: self.statements.or(other.statements),
            ..self
        }
        .then(operation)
    }

    fn function(self, name: &str) -> Self {
        self.then(format!("settled<EACH>({name}({}))", self.operand.source()))
    }

    fn then(self, expression: String) -> Self {
        let statements = self.statements.expect("formulas are of their parameters");
        let mut written = statements.borrow_mut();
        written.push(expression);
        Self {
            operand: Operand::Statement(written.len() - 1),
            ..self
        }
    }
}

impl Add for Traced<'_> {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.operator('+', other)
    }
}

impl Mul for Traced<'_> {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        self.operator('*', other)
    }
}

impl Div for Traced<'_> {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        self.operator('/', other)
    }
}

impl Real for Traced<'_> {
    fn constant(value: f32) -> Self {
        Self {
            operand: Operand::Constant(value),
            statements: None,
        }
    }
    fn tanh(self) -> Self {
        self.function("tanhf")
    }
    fn exp(self) -> Self {
        self.function("expf")
    }
    fn erf(self) -> Self {
        self.function("erff")
    }
    /// Of values that are rounded already it is one of them.
    fn positive(self) -> Self {
        self.then(format!("positive({})", self.operand.source()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_a_statement_that_is_rounded() {
        let source = formula_source("example", ["cap", "x"], |[cap, x]| {
            Traced::constant(0.1) * (x / cap).tanh() + x.positive()
        });
        assert_eq!(
            source,
            "namespace formula {\n\
             template <bool EACH>\n\
             __device__ float example(float cap, float x) {\n    \
                 const float v0 = settled<EACH>(x / cap);\n    \
                 const float v1 = settled<EACH>(tanhf(v0));\n    \
                 const float v2 = settled<EACH>(__int_as_float(0x3dcccccd) /* 0.1 */ * v1);\n    \
                 const float v3 = positive(x);\n    \
                 const float v4 = settled<EACH>(v2 + v3);\n    \
                 return v4;\n\
             }\n\
             }  // namespace formula\n"
        );
    }
}
