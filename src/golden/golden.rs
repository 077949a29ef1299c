//! A golden on disk.

use super::digest;
use super::manifest::{Content, FileRecord, Manifest, StageRecord, StatisticsFiles};
use crate::compare::Statistics;
use crate::error::{BadInput, Error, Result};
use crate::plan::StageId;
use crate::tensor::{DType, Element, Join, MappedFile, Tensor, npy};
use std::path::{Path, PathBuf};

/// A golden whose manifest has been read; values are read, and checked against their digests, when
/// they are asked for.
pub struct Golden {
    folder: PathBuf,
    manifest: Manifest,
    ignored: Vec<String>,
}

/// What a golden knows of a stage's value.
#[derive(Clone, Debug)]
pub enum Reference {
    /// The value, in parity's own layout: `[b, s, h]`, or `[b, n, s, s]` for scores.
    Full(Tensor),
    /// Statistics of it.
    Statistics(Statistics),
}

impl Golden {
    /// Name of the manifest in its folder.
    pub const MANIFEST: &'static str = "golden.json";

    /// Reads the manifest of a golden.
    ///
    /// # Errors
    /// If there is none or it is malformed.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let path = folder.join(Self::MANIFEST);
        let file = MappedFile::open(&path)?;
        let (manifest, ignored) = Manifest::parse_noting(&path, &file)?;
        Ok(Self {
            folder,
            manifest,
            ignored,
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Keys of its manifest that this version does not know, and that it says may be ignored.
    pub fn ignored_keys(&self) -> &[String] {
        &self.ignored
    }

    /// The token ids `[batch, positions]`.
    ///
    /// # Errors
    /// If the file is not as recorded, not of integers, not of two axes, or an id is outside the
    /// vocabulary.
    pub fn tokens(&self) -> Result<Tensor> {
        let record = &self.manifest.tokens;
        let tokens = self.read(record, None)?;
        let path = self.path_of(record);
        let bad = |expected: String, found: String| BadInput::new(&path, expected, found);
        let ids = match tokens.dtype() {
            DType::I64 | DType::I32 => integers(&tokens)?,
            other => return Err(bad("token ids, int64 or int32".into(), other.to_string()).into()),
        };
        token_extents(&tokens, &path)?;
        let vocabulary = self.manifest.model.vocab_size();
        let outside = |id: &i64| usize::try_from(*id).map_or(true, |id| id >= vocabulary);
        if let Some(index) = ids.iter().position(outside) {
            let at = format!("token {:?}", tokens.position(index));
            let expected = format!("an id from 0 to {}", vocabulary - 1);
            return Err(bad(expected, ids[index].to_string()).at(at).into());
        }
        Ok(tokens)
    }

    /// The position of every token `[batch, positions]`, as int64; `None` if none were recorded:
    /// they are `0..s` in every row then.
    ///
    /// # Errors
    /// If the file is not as recorded, not of the tokens' shape, not of int64 or int32, or a position
    /// is negative.
    pub fn positions(&self) -> Result<Option<Tensor>> {
        let types = [DType::I64, DType::I32];
        self.beside_tokens(
            self.manifest.positions.as_ref(),
            "positions from 0 up",
            &types,
            |at| at >= 0,
        )
    }

    /// The attention mask `[batch, positions]`, as int64: 1 where a token is attended to, 0 where
    /// there is padding; `None` if none was recorded: no token is padding then.
    ///
    /// # Errors
    /// If the file is not as recorded, not of the tokens' shape, neither of integers nor of
    /// booleans, or a value is neither 0 nor 1.
    pub fn mask(&self) -> Result<Option<Tensor>> {
        use DType::*;
        let types = [Bool, I64, I32, I16, I8, U8];
        let record = self.manifest.attention_mask.as_ref();
        self.beside_tokens(record, "an attention mask of 0 and 1", &types, |value| {
            value == 0 || value == 1
        })
    }

    /// Refuses what plans do not run yet: padding, and positions that do not count from 0. Without
    /// either, both would be as if they were not there, and whatever was compared would be wrong.
    ///
    /// # Errors
    /// [`BadInput`] that names the first such token; as [`Self::positions`] and [`Self::mask`].
    pub fn check_runs_without_inputs(&self) -> Result<()> {
        let refused = |record: &Option<FileRecord>, token: Vec<usize>, found: String| {
            let path = record
                .as_ref()
                .map_or_else(PathBuf::new, |r| self.path_of(r));
            BadInput::new(
                path,
                "what parity can run: no padding, and positions from 0 up",
                found,
            )
            .at(format!("token {token:?}"))
            .remedy("dump a run of sequences of one length, without padding")
        };
        if let Some(mask) = self.mask()?
            && let Some(index) = integers(&mask)?.iter().position(|value| *value == 0)
        {
            let record = &self.manifest.attention_mask;
            return Err(refused(record, mask.position(index), "padding".into()).into());
        }
        if let Some(positions) = self.positions()? {
            let row = positions.row_len() as i64;
            let places = integers(&positions)?.into_iter().zip((0..row).cycle());
            let moved = places
                .enumerate()
                .find(|(_, (found, plain))| found != plain);
            if let Some((index, (found, _))) = moved {
                let (record, token) = (&self.manifest.positions, positions.position(index));
                return Err(refused(record, token, format!("position {found}")).into());
            }
        }
        Ok(())
    }

    /// Integers that were recorded for every token, as int64.
    fn beside_tokens(
        &self,
        record: Option<&FileRecord>,
        what: &str,
        types: &[DType],
        is_valid: impl Fn(i64) -> bool,
    ) -> Result<Option<Tensor>> {
        let Some(record) = record else {
            return Ok(None);
        };
        let array = self.read(record, None)?;
        let path = self.path_of(record);
        let bad = |expected: String, found: String| BadInput::new(&path, expected, found);
        if !types.contains(&array.dtype()) {
            let names: Vec<String> = types.iter().map(DType::to_string).collect();
            let expected = format!("{what}, stored as {}", names.join(", "));
            return Err(bad(expected, array.dtype().to_string()).into());
        }
        let tokens = self.tokens()?;
        if array.shape() != tokens.shape() {
            let expected = format!("{what}, one a token: shape {:?}", tokens.shape());
            return Err(bad(expected, format!("shape {:?}", array.shape())).into());
        }
        let values = integers(&array)?;
        if let Some(index) = values.iter().position(|value| !is_valid(*value)) {
            let at = format!("token {:?}", array.position(index));
            return Err(bad(what.to_owned(), values[index].to_string())
                .at(at)
                .into());
        }
        Tensor::from_vec(array.shape(), values).map(Some)
    }

    /// The recorded value of a stage, or `None` if it was not recorded.
    ///
    /// # Errors
    /// If a file is not as recorded or shards do not join.
    pub fn reference(&self, stage: &StageId) -> Result<Option<Reference>> {
        let Some(record) = self.manifest.stage(stage) else {
            return Ok(None);
        };
        let reference = match &record.content {
            Content::Full { join, files, .. } => Reference::Full(self.full(record, *join, files)?),
            Content::Statistics(files) => Reference::Statistics(self.statistics(files)?),
        };
        Ok(Some(reference))
    }

    /// The file to name when something is wrong with a stage's values.
    pub fn file_of(&self, stage: &StageId) -> PathBuf {
        let record = self.manifest.stage(stage);
        let file = record.and_then(|record| record.files().next());
        match file {
            Some(record) => self.path_of(record),
            None => self.folder.join(Self::MANIFEST),
        }
    }

    fn full(&self, record: &StageRecord, join: Join, files: &[FileRecord]) -> Result<Tensor> {
        let shards = files
            .iter()
            .map(|file| {
                let array = self.read(file, Some(record.dtype))?;
                // Logits may lie in a wider container than the model computed them in.
                array
                    .narrowed_exactly(record.dtype)
                    .map_err(|e| e.in_file(self.path_of(file)))
            })
            .collect::<Result<Vec<_>>>()?;
        let joined = match join {
            Join::Replicated => shards[0].clone(),
            Join::Concat(axis) => {
                Tensor::concat(&shards, axis).map_err(|e| e.in_file(self.path_of(&files[0])))?
            }
        };
        record.layout.to_batch_first(&joined).ok_or_else(|| {
            let expected = format!("an array laid out as {:?}", record.layout);
            let found = format!("shape {:?}", joined.shape());
            BadInput::new(self.path_of(&files[0]), expected, found).into()
        })
    }

    fn statistics(&self, files: &StatisticsFiles) -> Result<Statistics> {
        let column = |record: &Option<FileRecord>| -> Result<Option<Vec<f64>>> {
            record
                .as_ref()
                .map(|record| {
                    let array = self.read(record, None)?;
                    let column = array.as_slice::<f64>();
                    let column = column.map_err(|e| e.in_file(self.path_of(record)))?;
                    Ok(column.to_vec())
                })
                .transpose()
        };
        Ok(Statistics {
            token_mean: column(&files.token_mean)?,
            token_min: column(&files.token_min)?,
            token_max: column(&files.token_max)?,
            token_sum: column(&files.token_sum)?,
            vocab_shard_mean: column(&files.vocab_shard_mean)?,
        })
    }

    fn path_of(&self, record: &FileRecord) -> PathBuf {
        self.folder.join(&record.file)
    }

    /// Reads a file of the golden after checking its digest.
    fn read(&self, record: &FileRecord, declared: Option<DType>) -> Result<Tensor> {
        let path = self.path_of(record);
        digest::verify(&MappedFile::open(&path)?, &record.digest)?;
        npy::read(path, declared)
    }
}

/// Rows and positions of an array of tokens, from this file.
pub(super) fn token_extents(tokens: &Tensor, path: &Path) -> Result<[usize; 2]> {
    let extents = <[usize; 2]>::try_from(tokens.shape());
    extents.ok().filter(|_| !tokens.is_empty()).ok_or_else(|| {
        let expected = "token ids [batch, positions], at least one";
        let found = format!("shape {:?}", tokens.shape());
        BadInput::new(path, expected, found).into()
    })
}

/// The elements of an array of integers or booleans.
fn integers(array: &Tensor) -> Result<Vec<i64>> {
    fn widened<T: Element + Into<i64>>(array: &Tensor) -> Result<Vec<i64>> {
        Ok(array
            .as_slice::<T>()?
            .iter()
            .map(|value| (*value).into())
            .collect())
    }
    match array.dtype() {
        DType::I64 => widened::<i64>(array),
        DType::I32 => widened::<i32>(array),
        DType::I16 => widened::<i16>(array),
        DType::I8 => widened::<i8>(array),
        DType::U8 | DType::Bool => widened::<u8>(array),
        DType::F64 | DType::F32 | DType::F16 | DType::Bf16 | DType::F8E4M3 | DType::F8E5M2 => {
            Err(Error::Mismatch {
                at: "array".into(),
                expected: "integers".into(),
                found: array.dtype().to_string(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use crate::tensor::{E4M3, Element};
    use serde_json::{Value, json};
    use std::fs;

    fn project() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    fn write<T: Element>(folder: &Path, name: &str, shape: &[usize], values: Vec<T>) -> Value {
        let file = format!("{name}.npy");
        let path = folder.join(&file);
        npy::write(&path, &Tensor::from_vec(shape, values).unwrap()).unwrap();
        let digest = Algorithm::Blake3.digest(&fs::read(path).unwrap());
        json!({"file": file, "digest": digest})
    }

    /// A golden of two rows of three tokens, with these inputs beside them.
    fn golden(inputs: impl FnOnce(&Path, &mut Value)) -> (tempfile::TempDir, Golden) {
        let folder = tempfile::tempdir().unwrap();
        let of = project().join("goldens/transformers_bloom_bf16_tp1");
        let of = Golden::open(of).unwrap();
        let mut manifest: Value = serde_json::from_str(&of.manifest().to_json()).unwrap();
        manifest["stages"] = json!([]);
        manifest["tokens"] = write(
            folder.path(),
            "tokens",
            &[2, 3],
            vec![5_i64, 6, 7, 8, 9, 10],
        );
        inputs(folder.path(), &mut manifest);
        fs::write(folder.path().join(Golden::MANIFEST), manifest.to_string()).unwrap();
        let golden = Golden::open(folder.path()).unwrap();
        (folder, golden)
    }

    #[test]
    fn a_run_without_padding_is_as_if_nothing_was_recorded() {
        let (_folder, plain) = golden(|_, _| ());
        assert!(plain.positions().unwrap().is_none() && plain.mask().unwrap().is_none());
        plain.check_runs_without_inputs().unwrap();
        let (_folder, recorded) = golden(|folder, manifest| {
            let positions = vec![0_i32, 1, 2, 0, 1, 2];
            manifest["positions"] = write(folder, "positions", &[2, 3], positions);
            manifest["attention_mask"] = write(folder, "attention_mask", &[2, 3], vec![1_u8; 6]);
        });
        let positions = recorded.positions().unwrap().unwrap();
        assert_eq!(positions.as_slice::<i64>().unwrap(), [0, 1, 2, 0, 1, 2]);
        let mask = recorded.mask().unwrap().unwrap();
        assert_eq!(mask.as_slice::<i64>().unwrap(), [1; 6]);
        recorded.check_runs_without_inputs().unwrap();
    }

    #[test]
    fn what_plans_do_not_run_is_refused() {
        let mut refused = String::new();
        let mut refuse = |inputs: &dyn Fn(&Path, &mut Value)| {
            let (folder, golden) = golden(inputs);
            let error = golden.check_runs_without_inputs().unwrap_err().to_string();
            refused += &error.replace(&folder.path().display().to_string(), "GOLDEN");
            refused.push('\n');
        };
        macro_rules! input {
            ($key:literal, $shape:expr, $values:expr) => {
                refuse(&|folder, manifest| {
                    manifest[$key] = write(folder, $key, &$shape, $values.to_vec());
                })
            };
        }
        input!("attention_mask", [2, 3], [1_i64, 1, 1, 0, 1, 1]);
        input!("attention_mask", [2, 3], [1_i64, 1, 1, 2, 1, 1]);
        input!("attention_mask", [2, 3], [1_f32; 6]);
        input!("attention_mask", [3, 2], [1_i64; 6]);
        input!("attention_mask", [2, 1, 3, 3], [1_i64; 18]);
        input!("positions", [2, 3], [0_i64, 1, 2, 1, 2, 3]);
        input!("positions", [2, 3], [0_i64, 1, 2, 0, -1, 2]);
        input!("positions", [2, 3], [1_u8; 6]);
        input!("positions", [6], [1_i64; 6]);
        input!("positions", [2, 3], [E4M3::from_bits(0); 6]);
        insta::assert_snapshot!(refused);
    }
}
