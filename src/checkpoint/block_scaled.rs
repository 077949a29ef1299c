//! Weights in fp8 with a scale for every block, as DeepSeek-V3 is published.
//!
//! `W.weight` `[m, k]` is e4m3, `W.weight_scale_inv` has a row for every `rows` rows and a column for every `columns`
//! columns of it, the last ones smaller. The weight is their product in fp32, rounded once to the model's type
//! (`weight_dequant` of DeepSeek's inference code). How large a block is, `quantization_config` says; it is never
//! guessed from shapes.

use super::{Stored, Weights};
use crate::error::{BadInput, Error, Result};
use crate::tensor::{DType, Tensor};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What the name of a scale adds to its weight's.
const SCALE: &str = "_scale_inv";

/// A source of weights of which some are to be scaled.
pub(super) struct BlockScaled {
    under: Box<dyn Weights>,
    folder: PathBuf,
    rows: usize,
    columns: usize,
    dtype: DType,
}

impl BlockScaled {
    /// Weights as they are, if none has scales; else what they are scaled to, in the model's type. `settings` are those
    /// of the model's configuration.
    ///
    /// # Errors
    /// If there are scales, and the settings do not say of which blocks.
    pub(super) fn over(
        under: Box<dyn Weights>,
        settings: &Map<String, Value>,
        dtype: DType,
        folder: &Path,
    ) -> Result<Box<dyn Weights>> {
        let names = under.names();
        let Some(scale) = names.into_iter().find(|name| name.ends_with(SCALE)) else {
            return Ok(under);
        };
        let config = folder.join("config.json");
        let fault = |found: String| -> Error {
            let expected = "quantization_config.weight_block_size, of which blocks scales are";
            let fault = BadInput::new(&config, expected, found);
            fault.at(scale).into()
        };
        let quantization = settings.get("quantization_config");
        let size = quantization.and_then(|settings| settings.get("weight_block_size"));
        let size = size.ok_or_else(|| fault("none".into()))?;
        let extents: Option<Vec<usize>> = size.as_array().and_then(|extents| {
            let extent = |value: &Value| usize::try_from(value.as_u64()?).ok().filter(|n| *n > 0);
            extents.iter().map(extent).collect()
        });
        let &[rows, columns] = extents.as_deref().ok_or_else(|| fault(size.to_string()))? else {
            return Err(fault(size.to_string()));
        };
        Ok(Box::new(Self {
            under,
            folder: folder.to_owned(),
            rows,
            columns,
            dtype,
        }))
    }

    fn scale_of(&self, name: &str) -> Option<String> {
        let scale = format!("{name}{SCALE}");
        self.under.stored(&scale).map(|_| scale)
    }
}

impl Weights for BlockScaled {
    fn names(&self) -> Vec<&str> {
        let mut names = self.under.names();
        names.retain(|name| {
            let scaled = name.strip_suffix(SCALE);
            scaled.is_none_or(|weight| self.under.stored(weight).is_none())
        });
        names
    }

    fn stored(&self, name: &str) -> Option<Stored> {
        let stored = self.under.stored(name)?;
        Some(match self.scale_of(name) {
            None => stored,
            Some(_) => Stored {
                dtype: self.dtype,
                ..stored
            },
        })
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        let weight = self.under.load(name)?;
        let Some(scale) = self.scale_of(name) else {
            return Ok(weight);
        };
        let scales = self.under.load(&scale)?;
        let blocks = |shape: &[usize]| {
            let [rows, columns] = [shape[0], shape[1]];
            [rows.div_ceil(self.rows), columns.div_ceil(self.columns)]
        };
        let is_matrix = weight.shape().len() == 2;
        let expected = is_matrix.then(|| blocks(weight.shape()));
        let Some([_, across]) = expected.filter(|expected| scales.shape() == *expected) else {
            let expected = format!(
                "a scale for every block of {} × {} of {name} {:?}",
                self.rows,
                self.columns,
                weight.shape()
            );
            let found = format!("shape {:?}", scales.shape());
            return Err(BadInput::new(&self.folder, expected, found)
                .at(scale)
                .into());
        };
        let [weight_wide, scales] = [weight.widened()?, scales.widened()?];
        let (values, scales) = (weight_wide.as_slice::<f64>()?, scales.as_slice::<f64>()?);
        let width = weight.shape()[1].max(1);
        let scaled = values.iter().enumerate().map(|(index, value)| {
            let (row, column) = (index / width, index % width);
            let scale = scales[row / self.rows * across + column / self.columns];
            // Both are fp32 numbers: their product in fp64 rounds to what fp32 gives.
            (value * scale) as f32
        });
        Tensor::from_vec(weight.shape(), scaled.collect::<Vec<f32>>())?.cast(self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Overlay;
    use serde_json::json;

    struct Nothing;

    impl Weights for Nothing {
        fn names(&self) -> Vec<&str> {
            Vec::new()
        }
        fn stored(&self, _: &str) -> Option<Stored> {
            None
        }
        fn load(&self, name: &str) -> Result<Tensor> {
            Err(BadInput::new("memory", name, "nothing").into())
        }
    }

    fn scaled(config: Value, scales: &[usize]) -> Result<Box<dyn Weights>> {
        let weight = (0..15).map(|x| x as f32).collect::<Vec<f32>>();
        let count = scales.iter().product::<usize>();
        let values = (0..count).map(|x| 0.5_f32.powi(x as i32)).collect();
        let tensors = [
            (
                "a.weight".to_owned(),
                Tensor::from_vec(&[3, 5], weight).unwrap(),
            ),
            (
                "a.weight_scale_inv".to_owned(),
                Tensor::from_vec::<f32>(scales, values).unwrap(),
            ),
        ];
        let under = Overlay::new(Box::new(Nothing), tensors.into());
        let Value::Object(config) = config else {
            unreachable!("an object");
        };
        BlockScaled::over(Box::new(under), &config, DType::Bf16, Path::new("model"))
    }

    #[test]
    fn every_block_has_its_scale() {
        let config = json!({"quantization_config": {"weight_block_size": [2, 3]}});
        let weights = scaled(config.clone(), &[2, 2]).unwrap();
        assert_eq!(weights.names(), ["a.weight"]);
        assert_eq!(weights.stored("a.weight").unwrap().dtype, DType::Bf16);
        let loaded = weights.load("a.weight").unwrap();
        let loaded = loaded.widened().unwrap();
        let expected = [
            0.0, 1.0, 2.0, 1.5, 2.0, 5.0, 6.0, 7.0, 4.0, 4.5, 2.5, 2.75, 3.0, 1.625, 1.75,
        ];
        assert_eq!(loaded.as_slice::<f64>().unwrap(), expected);
        let error = scaled(config, &[1, 2]).unwrap().load("a.weight");
        let error = error.err().unwrap().to_string();
        assert!(error.contains("every block of 2 × 3"), "{error}");
    }

    #[test]
    fn blocks_are_never_guessed() {
        for config in [
            json!({}),
            json!({"quantization_config": {"weight_block_size": [0, 128]}}),
            json!({"quantization_config": {"weight_block_size": 128}}),
        ] {
            let error = scaled(config, &[1, 1]).err().unwrap().to_string();
            assert!(error.contains("weight_block_size"), "{error}");
        }
    }
}
