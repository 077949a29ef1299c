//! A golden on disk.

use super::digest;
use super::manifest::{Content, FileRecord, Manifest, StageRecord, StatisticsFiles};
use crate::compare::Statistics;
use crate::error::{BadInput, Result};
use crate::plan::StageId;
use crate::tensor::{DType, Join, MappedFile, Tensor, npy};
use std::path::{Path, PathBuf};

/// A golden whose manifest has been read; values are read, and checked against their digests, when
/// they are asked for.
pub struct Golden {
    folder: PathBuf,
    manifest: Manifest,
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
        let manifest = Manifest::parse(&path, &file)?;
        Ok(Self { folder, manifest })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
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
        let ids: Vec<i64> = match tokens.dtype() {
            DType::I64 => tokens.as_slice::<i64>()?.to_vec(),
            DType::I32 => tokens
                .as_slice::<i32>()?
                .iter()
                .map(|id| i64::from(*id))
                .collect(),
            other => return Err(bad("token ids, int64 or int32".into(), other.to_string()).into()),
        };
        if tokens.shape().len() != 2 || tokens.is_empty() {
            let found = format!("shape {:?}", tokens.shape());
            return Err(bad("token ids [batch, positions], at least one".into(), found).into());
        }
        let vocabulary = self.manifest.model.vocab_size();
        let outside = |id: &i64| usize::try_from(*id).map_or(true, |id| id >= vocabulary);
        if let Some(index) = ids.iter().position(outside) {
            let at = format!("token {:?}", tokens.position(index));
            let expected = format!("an id from 0 to {}", vocabulary - 1);
            return Err(bad(expected, ids[index].to_string()).at(at).into());
        }
        Ok(tokens)
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
        digest::verify(&MappedFile::open(&path)?, &record.sha256)?;
        npy::read(path, declared)
    }
}
