//! A golden on disk.

use super::Sequences;
use super::digest;
use super::manifest::{Content, FileRecord, Manifest, StageRecord, StatisticsFiles};
use crate::compare::{Projection, Statistics};
use crate::error::{BadInput, Error, Result};
use crate::exec::{Padding, start};
use crate::op::Op;
use crate::plan::{Plan, StageId};
use crate::tensor::{DType, Element, Join, MappedFile, Tensor, npy};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A golden whose manifest has been read; values are read, and checked against their digests, when
/// they are asked for.
pub struct Golden {
    folder: PathBuf,
    manifest: Manifest,
    ignored: Vec<String>,
    sequences: Option<Sequences>,
    /// What computes every stage, where rows hold padding or several sequences: its axes tell where.
    ops: HashMap<StageId, Op>,
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

    /// Whether a folder has a manifest.
    pub fn recognises(folder: &Path) -> bool {
        folder.join(Self::MANIFEST).is_file()
    }

    /// Reads the manifest of a golden, and which of its tokens are padding.
    ///
    /// # Errors
    /// If there is none, it is malformed, or an attention mask is not one of these tokens.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let path = folder.join(Self::MANIFEST);
        if folder.is_dir() && !path.exists() {
            let fault = BadInput::new(&path, "a golden's manifest", "none");
            return Err(fault
                .remedy("`parity import` makes a golden of a dump")
                .into());
        }
        let file = MappedFile::open(&path)?;
        let (manifest, ignored) = Manifest::parse_noting(&path, &file)?;
        let mut golden = Self {
            folder,
            manifest,
            ignored,
            sequences: None,
            ops: HashMap::new(),
        };
        golden.sequences = golden.find_sequences()?;
        if golden.sequences.is_some() {
            for step in golden.plan()?.steps() {
                let op = || step.op.clone();
                golden.ops.entry(step.stage.clone()).or_insert_with(op);
            }
        }
        Ok(golden)
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

    /// The token ids `[batch, positions]`; of padded or packed rows, those of the [sequences](Self::sequences).
    ///
    /// # Errors
    /// If the file is not as recorded, not of integers, not of two axes, or an id is outside the
    /// vocabulary.
    pub fn tokens(&self) -> Result<Tensor> {
        let tokens = self.recorded_tokens()?;
        self.taken(tokens, &[1], &self.manifest.tokens)
    }

    fn recorded_tokens(&self) -> Result<Tensor> {
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

    /// The position of every token, as int64, where they do not count from 0 in every row of [`Self::tokens`].
    ///
    /// # Errors
    /// If the file is not as recorded, not of the tokens' shape, not of int64 or int32, or a position
    /// is negative.
    pub fn positions(&self) -> Result<Option<Tensor>> {
        let record = self.manifest.positions.as_ref();
        let types = [DType::I64, DType::I32];
        let given = self.beside_tokens(record, "positions from 0 up", &types, |at| at >= 0)?;
        if given.is_none() && (self.sequences.is_none() || !self.reads_positions()?) {
            return Ok(None);
        }
        // Those that a run is not given count the columns of its rows, padding as well.
        let columns = || -> Result<Tensor> {
            let tokens = self.recorded_tokens()?;
            let [(_, _), (_, columns)] = start(&tokens, None)?;
            Ok(columns)
        };
        let recorded = given.map_or_else(columns, Ok)?;
        let record = record.unwrap_or(&self.manifest.tokens);
        self.taken(recorded, &[1], record).map(Some)
    }

    /// The sequences of rows that were padded or packed; `None` if every row is one whole sequence.
    pub fn sequences(&self) -> Option<&Sequences> {
        self.sequences.as_ref()
    }

    /// What fills up shorter sequences.
    pub fn padding(&self) -> Option<&Padding> {
        self.sequences().map(Sequences::padding)
    }

    /// The attention mask `[batch, positions]`, as int64: 0 where there is padding, else the number in its row
    /// of the sequence that a token is of (1 if it holds one); `None` if none was recorded.
    fn mask(&self) -> Result<Option<Tensor>> {
        use DType::*;
        let types = [Bool, I64, I32, I16, I8, U8];
        let record = self.manifest.attention_mask.as_ref();
        self.beside_tokens(record, "an attention mask from 0 up", &types, |value| {
            value >= 0
        })
    }

    fn find_sequences(&self) -> Result<Option<Sequences>> {
        let (Some(record), Some(mask)) = (&self.manifest.attention_mask, self.mask()?) else {
            return Ok(None);
        };
        let path = self.path_of(record);
        let extents = token_extents(&mask, &path)?;
        let numbers = integers(&mask)?;
        if numbers.iter().all(|number| *number == 0) {
            let fault = BadInput::new(path, "a token that is attended to", "padding only");
            return Err(fault.into());
        }
        Ok(Sequences::new(&numbers, extents))
    }

    /// A value of the sequences, taken out of the rows of what was recorded.
    fn taken(&self, recorded: Tensor, axes: &[usize], record: &FileRecord) -> Result<Tensor> {
        match &self.sequences {
            None => Ok(recorded),
            Some(sequences) => sequences
                .taken_from(&recorded, axes)
                .map_err(|e| e.in_file(self.path_of(record))),
        }
    }

    /// Which axes of a stage's value follow positions, where rows hold padding or several sequences.
    pub(crate) fn position_axes(&self, stage: &StageId, axes: usize) -> &'static [usize] {
        let op = self.ops.get(stage);
        op.map_or(&[1], |op| op.position_axes(axes))
    }

    /// How many elements of a stage's value of this shape fill up shorter sequences.
    pub(crate) fn padding_in(&self, stage: &StageId, shape: &[usize]) -> usize {
        let known = self.padding().zip(self.ops.get(stage));
        known.map_or(0, |(padding, op)| padding.elements_in(op, shape))
    }

    fn reads_positions(&self) -> Result<bool> {
        let positions = StageId::from(StageId::POSITIONS);
        let plan = self.plan()?;
        let mut steps = plan.steps().iter();
        Ok(steps.any(|step| step.inputs.contains(&positions)))
    }

    fn plan(&self) -> Result<Plan> {
        let Manifest {
            model,
            dtype,
            arithmetic,
            ..
        } = &self.manifest;
        model.plan(*dtype, arithmetic)
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
        let tokens = self.recorded_tokens()?;
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
            Content::Full { join, files, .. } => {
                let value = self.full(record, *join, files)?;
                let axes = self.position_axes(stage, value.shape().len());
                Reference::Full(self.taken(value, axes, &files[0])?)
            }
            Content::Statistics(files) if self.sequences.is_none() => {
                Reference::Statistics(self.statistics(files)?)
            }
            Content::Statistics(_) => {
                let expected = "values of a run of padded or packed rows";
                let found = "statistics, of padding as of tokens";
                let fault = BadInput::new(self.file_of(stage), expected, found);
                let remedy = "import the dump again without --statistics-only";
                return Err(fault.at(stage.as_str()).remedy(remedy).into());
            }
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
            token_projection: files
                .token_projection
                .as_ref()
                .map(|projection| {
                    let values = column(&Some(projection.values.clone()))?.unwrap_or_default();
                    let seed = projection.seed;
                    Ok::<_, Error>(Projection { seed, values })
                })
                .transpose()?,
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
pub(super) fn integers(array: &Tensor) -> Result<Vec<i64>> {
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
    fn golden(inputs: impl FnOnce(&Path, &mut Value)) -> (tempfile::TempDir, Result<Golden>) {
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
        let golden = Golden::open(folder.path());
        (folder, golden)
    }

    #[test]
    fn a_run_without_padding_is_as_if_nothing_was_recorded() {
        let (_folder, plain) = golden(|_, _| ());
        let plain = plain.unwrap();
        assert!(plain.positions().unwrap().is_none() && plain.sequences().is_none());
        let (_folder, recorded) = golden(|folder, manifest| {
            let positions = vec![0_i32, 1, 2, 0, 1, 2];
            manifest["positions"] = write(folder, "positions", &[2, 3], positions);
            manifest["attention_mask"] = write(folder, "attention_mask", &[2, 3], vec![1_u8; 6]);
        });
        let recorded = recorded.unwrap();
        let positions = recorded.positions().unwrap().unwrap();
        assert_eq!(positions.as_slice::<i64>().unwrap(), [0, 1, 2, 0, 1, 2]);
        assert!(recorded.sequences().is_none());
    }

    #[test]
    fn padding_is_left_out() {
        let padded = |folder: &Path, manifest: &mut Value| {
            let positions = vec![0_i32, 1, 2, 0, 1, 2];
            manifest["positions"] = write(folder, "positions", &[2, 3], positions);
            let mask = vec![0_u8, 1, 1, 1, 0, 0];
            manifest["attention_mask"] = write(folder, "attention_mask", &[2, 3], mask);
        };
        let (_folder, golden) = golden(padded);
        let golden = golden.unwrap();
        assert_eq!(golden.padding().unwrap().lengths(), [2, 1]);
        let of = |tensor: Tensor| tensor.as_slice::<i64>().unwrap().to_vec();
        assert_eq!(of(golden.tokens().unwrap()), [6, 7, 8, 0]);
        assert_eq!(of(golden.positions().unwrap().unwrap()), [1, 2, 0, 0]);
    }

    #[test]
    fn inputs_that_are_none_of_the_tokens_are_refused() {
        let mut refused = String::new();
        let mut refuse = |inputs: &dyn Fn(&Path, &mut Value)| {
            let (folder, golden) = golden(inputs);
            let error = golden
                .and_then(|golden| golden.positions())
                .unwrap_err()
                .to_string();
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
        input!("attention_mask", [2, 3], [0_i64; 6]);
        input!("attention_mask", [2, 3], [1_i64, 1, 1, -2, 1, 1]);
        input!("attention_mask", [2, 3], [1_f32; 6]);
        input!("attention_mask", [3, 2], [1_i64; 6]);
        input!("attention_mask", [2, 1, 3, 3], [1_i64; 18]);
        input!("positions", [2, 3], [0_i64, 1, 2, 0, -1, 2]);
        input!("positions", [2, 3], [1_u8; 6]);
        input!("positions", [6], [1_i64; 6]);
        input!("positions", [2, 3], [E4M3::from_bits(0); 6]);
        insta::assert_snapshot!(refused);
    }
}
