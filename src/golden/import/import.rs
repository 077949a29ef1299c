//! The import itself: what every framework's dumps have in common.

use super::described::Described;
use super::ranks::{Joined, Sharding};
use super::raw::RawDump;
use super::routing::{OfExpert, Routing, rows_of};
use super::{megatron_core, megatron_deepspeed, transformers};
use crate::arch::{Framework, Hook, Hooked, Part, Role, Rows, alternatives};
use crate::compare::{Projection, Statistics};
use crate::digest::Algorithm;
use crate::error::{BadInput, Error, Result};
use crate::golden::golden::{Golden, integers, token_extents};
use crate::golden::manifest::{
    Content, FileRecord, Manifest, ProjectionFile, Provenance, StageRecord, StatisticsFiles,
};
use crate::output::{Existing, OutputFolder};
use crate::plan::{Arithmetic, StageId, Variant};
use crate::tensor::{DType, Join, Layout, MappedFile, Tensor, npy, unchanged_in};
use clap::ValueEnum;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What an import did.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The manifest that was written.
    pub manifest: Manifest,
    /// Dumps whose names mean nothing to this importer; left out of the golden.
    pub unmapped: Vec<String>,
}

/// Makes a golden in the new folder `output` from the raw dump in `folder`; `framework` may be left to
/// a dump that says whose it is.
///
/// Dumps of one stage under several names are checked to be the same and kept once. With
/// `statistics_only`, statistics are kept in place of the values.
///
/// # Errors
/// If the dump is incomplete or contradicts itself, or `output` exists and is not empty. Nothing is left behind
/// then.
pub fn import(
    folder: &Path,
    framework: Option<Framework>,
    output: &Path,
    statistics_only: bool,
) -> Result<Imported> {
    let input = folder;
    let mut dump = RawDump::open(input)?;
    let framework = match framework {
        Some(named) => named,
        None => framework_of(&dump)?,
    };
    if framework == Framework::MegatronCore {
        let stages = megatron_core::pipeline_parallel(&dump)?;
        dump.join_stages(stages)?;
    }
    let described = match framework {
        Framework::MegatronDeepspeed => megatron_deepspeed::describe(&dump)?,
        Framework::MegatronCore => megatron_core::describe(&dump)?,
        Framework::Transformers => transformers::describe(&dump)?,
    };
    described.model.validate(dump.config_path())?;
    let existing = Existing::Refused("remove it or name another");
    let run = this_run(input, statistics_only)?;
    let folder = OutputFolder::create(output, &[], &run, existing)?;
    if folder.is_whole() {
        // Killed when all was done but to say so.
        folder.commit(None)?;
        return Imported::again(output);
    }
    let imported = Import {
        dump: &dump,
        autocast: dump.autocast(described.dtype)?,
        described: &described,
        folder: &folder,
        statistics_only,
    }
    .run();
    match imported.and_then(|imported| unchanged_in(input).map(|()| imported)) {
        Ok(imported) => folder.commit(None).map(|()| imported),
        Err(error) => {
            folder.discard();
            Err(error)
        }
    }
}

/// What makes two runs the same: the dump's files by size and time, and the options.
fn this_run(dump: &Path, statistics_only: bool) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut folders = vec![dump.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = folder.read_dir().map_err(Error::io(&folder, "list"))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let kind = path.symlink_metadata().map_err(Error::io(&path, "read"))?;
            let stamp = (kind.len(), kind.ctime(), kind.ctime_nsec());
            hasher.update(format!("{path:?} {stamp:?}\n").as_bytes());
            if kind.is_dir() {
                folders.push(path);
            }
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!(
        "import {version} {} {statistics_only}",
        hasher.finalize()
    ))
}

impl Imported {
    /// Of a golden that is there.
    fn again(output: &Path) -> Result<Self> {
        let manifest = Golden::open(output)?.manifest().clone();
        let unmapped = Vec::new();
        Ok(Self { manifest, unmapped })
    }
}

/// The framework that the dump itself names.
fn framework_of(dump: &RawDump) -> Result<Framework> {
    let known = Framework::value_variants();
    let named = |framework: &&Framework| dump.framework() == Some(&framework.to_string());
    known.iter().find(named).copied().ok_or_else(|| {
        let names = known.iter().map(Framework::to_string);
        let expected = format!("a dump of {}", alternatives(names));
        let found = match dump.framework() {
            Some(other) => format!("one of {other}, whose models parity has no plan for yet"),
            None => "one that does not say whose it is".to_owned(),
        };
        let fault = BadInput::new(dump.config_path(), expected, found);
        fault
            .at("framework")
            .remedy("say whose hooks wrote it with --from")
            .into()
    })
}

struct Import<'a> {
    dump: &'a RawDump,
    /// The type in which autocast ran products, if it did.
    autocast: Option<DType>,
    described: &'a Described,
    folder: &'a OutputFolder,
    statistics_only: bool,
}

/// A stage that has been kept, with its value for comparison with later dumps of it.
struct Kept {
    value: Tensor,
    source: String,
}

/// A stage's value, as it was read.
struct Read {
    /// In parity's layout.
    value: Tensor,
    /// How the files made it.
    join: Join,
    /// The order of the files' axes.
    layout: Layout,
    /// How far replicas are apart, if they are.
    drift: Option<f64>,
    /// Whether it is other than the files joined.
    is_made: bool,
}

/// The shape that every stage has in this model on these tokens.
struct Shapes {
    tokens: [usize; 2],
    stages: HashMap<StageId, Vec<usize>>,
    /// The types that the run's steps leave values in.
    types: HashMap<StageId, DType>,
}

/// What the experts of a mixture recorded of a stage.
#[derive(Default)]
struct OfExperts {
    experts: BTreeMap<usize, OfExpert>,
    source: String,
    file: PathBuf,
}

/// A router of the dump.
struct Router {
    routing: Routing,
    /// Of experts that say so, which tokens their rows are of.
    places: BTreeMap<usize, Vec<usize>>,
}

/// An input of the run.
struct Input {
    value: Tensor,
    /// Where it lies, or the first of its parts.
    path: PathBuf,
    /// Whether it is other than that file.
    is_made: bool,
}

impl Read {
    /// A value that no file is.
    fn made(value: Tensor) -> Self {
        Self {
            value,
            join: Join::Replicated,
            layout: Layout::Bsh,
            drift: None,
            is_made: true,
        }
    }
}

impl Import<'_> {
    fn run(&self) -> Result<Imported> {
        let mut kept: BTreeMap<StageId, Kept> = BTreeMap::new();
        let mut stages = Vec::new();
        let mut unmapped = Vec::new();
        let tokens = self.tokens()?;
        let extents = token_extents(&tokens.value, &tokens.path)?;
        let shapes = self.shapes(extents)?;
        let mut model = self.described.model.clone();
        let routers = self.routers(extents)?;
        let mut of_experts: BTreeMap<StageId, OfExperts> = BTreeMap::new();
        let mut record = |read: Read, stage: StageId, variant, name: &str, files: &[&PathBuf]| {
            self.check_shape(&stage, &read.value, files[0], &shapes)?;
            if let Some(kept) = kept.get(&stage) {
                if !kept.value.bits_equal(&read.value) {
                    let expected = format!("the values of {}, the same stage {stage}", kept.source);
                    let fault = BadInput::new(files[0], expected, "others");
                    let remedy = "if dropout was on, dump the run after model.eval()";
                    return Err(fault.remedy(remedy).into());
                }
                return Ok(());
            }
            if self.described.model.role(&stage) == Some(Role::Logits) {
                // Padding differs from run to run, whatever the settings say.
                model.set_vocab_size(read.value.row_len());
            }
            // Statistics are kept of the value in parity's own layout; of a choice there are none that say anything.
            let is_choice = self.described.model.role(&stage) == Some(Role::Choice);
            let (content, layout) = if self.statistics_only && !is_choice {
                let statistics = self.keep_statistics(&stage, &read.value)?;
                (Content::Statistics(statistics), Layout::Bsh)
            } else if read.is_made {
                self.write(&stage, &read.value)?
            } else {
                let content = self.keep(&stage, read.join, files, read.drift)?;
                (content, read.layout)
            };
            stages.push(StageRecord {
                stage: stage.clone(),
                source: name.to_owned(),
                dtype: read.value.dtype(),
                layout,
                variant,
                content,
            });
            let (value, source) = (read.value, name.to_owned());
            kept.insert(stage, Kept { value, source });
            Ok::<_, Error>(())
        };
        for ((_, name), files) in &self.dump.listing.arrays {
            let mut hooked = self.hooked(name);
            if hooked
                .iter()
                .any(|hooked| shapes.stages.contains_key(&hooked.stage))
            {
                // A block has an MLP, or what is in its place.
                hooked.retain(|hooked| shapes.stages.contains_key(&hooked.stage));
            }
            // Of a router or an expert nothing is known without its choice, and of what the plan has not.
            let is_routed = |hooked: &Hooked| {
                let known = hooked
                    .layer
                    .is_some_and(|layer| routers.contains_key(&layer));
                known && shapes.stages.contains_key(&hooked.stage)
            };
            hooked.retain(|hooked| match hooked.hook.rows {
                Rows::Grid | Rows::Tokens => true,
                Rows::Places => false,
                Rows::Chosen(_) | Rows::Weights(_) | Rows::OfExpert => is_routed(hooked),
            });
            if hooked.is_empty() {
                let is_used = self
                    .hooked(name)
                    .iter()
                    .any(|hooked| hooked.hook.rows == Rows::Places);
                if !is_used {
                    unmapped.push(name.clone());
                }
                continue;
            }
            let files = self.all_ranks(name, files)?;
            let (listing, run) = (&self.dump.listing, self.described.dtype);
            for hooked in hooked {
                let variant = self.variant(&hooked);
                let router = hooked.layer.and_then(|layer| routers.get(&layer));
                let dtype = shapes.types.get(&hooked.stage).copied().unwrap_or(run);
                let (stage, hook) = (&hooked.stage, hooked.hook);
                if !matches!(hook.rows, Rows::Chosen(_)) {
                    listing.check_types(&files, run, self.autocast)?;
                }
                let read = match (hook.rows, router) {
                    (Rows::Chosen(_), Some(router)) => Read::made(router.routing.choice()?),
                    (Rows::Weights(_), Some(router)) => {
                        let read = self.read(stage, dtype, &files, hook, extents)?;
                        let weights = router.routing.weights(&read.value, files[0])?;
                        Read::made(weights)
                    }
                    (Rows::OfExpert, _) => {
                        let all = of_experts.entry(stage.clone()).or_default();
                        if all.source.is_empty() {
                            all.source = name.clone();
                            all.file = files[0].clone();
                        }
                        let places = router.and_then(|router| router.places.get(&hooked.expert?));
                        self.read_expert(&hooked, dtype, &files, places, all)?;
                        continue;
                    }
                    _ => self.read(stage, dtype, &files, hook, extents)?,
                };
                record(read, hooked.stage, variant, name, &files)?;
            }
        }
        for (stage, all) in of_experts {
            let router = stage.layer().and_then(|layer| routers.get(&layer));
            let value = match router {
                Some(router) => router.routing.side_by_side(&all.experts, &all.file)?,
                None => None,
            };
            match value {
                Some(value) => record(
                    Read::made(value),
                    stage,
                    Variant::PLAIN,
                    &all.source,
                    &[&all.file],
                )?,
                None => unmapped.push(all.source),
            }
        }
        let input = |name: &str| -> Result<Option<FileRecord>> {
            let input = self.input(name)?;
            input.map(|input| self.keep_input(input, name)).transpose()
        };
        let manifest = Manifest {
            provenance: self.provenance()?,
            arithmetic: self.described.arithmetic,
            model,
            dtype: self.described.dtype,
            tokens: self.keep_input(tokens, "tokens.npy")?,
            positions: input("position_ids.npy")?,
            attention_mask: self.attention_mask()?,
            stages,
        };
        let path = self.folder.file(Golden::MANIFEST)?;
        fs::write(&path, manifest.to_json()).map_err(Error::io(&path, "write"))?;
        // What was written must be readable: the rules for reading apply to dumps as well.
        let golden = Golden::open(self.folder.path())?;
        golden.tokens()?;
        golden.positions()?;
        if self.statistics_only
            && let Some(sequences) = golden.sequences()
        {
            let expected = "rows of one sequence each, of which statistics can be kept";
            let fault = BadInput::new(self.dump.tokens()?, expected, sequences.to_string());
            return Err(fault.remedy("leave out --statistics-only").into());
        }
        Ok(Imported { manifest, unmapped })
    }

    /// The tokens of all ranks.
    fn tokens(&self) -> Result<Input> {
        let name = "tokens.npy";
        self.input(name)?.ok_or_else(|| {
            let found = BadInput::new(self.dump.config_path(), format!("{name} beside it"), "none");
            found.into()
        })
    }

    /// An input of the run, if it is there: of ranks that have sequences of their own, those of one after the
    /// other's.
    fn input(&self, name: &str) -> Result<Option<Input>> {
        let Some(path) = self.dump.beside_tokens(name)? else {
            return Ok(None);
        };
        let of_expert_ranks = (0..self.described.ranks.expert).map(|rank| {
            let own = self.dump.of_rank(rank * self.described.ranks.tensor, name);
            npy::read(own.as_deref().unwrap_or(&path), None)
        });
        let parts = of_expert_ranks.collect::<Result<Vec<Tensor>>>()?;
        let value = Tensor::concat(&parts, 0).map_err(|e| e.in_file(&path))?;
        Ok(Some(Input {
            value,
            path,
            is_made: parts.len() > 1,
        }))
    }

    fn keep_input(&self, input: Input, name: &str) -> Result<FileRecord> {
        if !input.is_made {
            return self.copy(&input.path, name);
        }
        let path = self.folder.file(name)?;
        npy::write(&path, &input.value)?;
        self.record(&path, name.to_owned())
    }

    /// What routers chose, by their layers.
    fn routers(&self, extents: [usize; 2]) -> Result<BTreeMap<usize, Router>> {
        let mut routers: BTreeMap<usize, Router> = BTreeMap::new();
        let mut places: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
        for ((_, name), files) in &self.dump.listing.arrays {
            for hooked in self.hooked(name) {
                let (Some(layer), hook) = (hooked.layer, hooked.hook) else {
                    continue;
                };
                match (hook.rows, self.described.model.chosen_experts()) {
                    (Rows::Chosen(form), Some(chosen)) => {
                        let files = self.all_ranks(name, files)?;
                        let shards = files.iter().map(|file| npy::read(file.as_path(), None));
                        let shards = shards.collect::<Result<Vec<_>>>()?;
                        let read = self.joined(&hooked.stage, shards, &files, hook, extents)?;
                        let routing = Routing::new(form, &read.value, chosen, files[0])?;
                        let places = BTreeMap::new();
                        routers.entry(layer).or_insert(Router { routing, places });
                    }
                    (Rows::Places, Some(_)) => {
                        let (Some(expert), Some(file)) = (hooked.expert, files.get(&0)) else {
                            continue;
                        };
                        let numbers = integers(&npy::read(file.as_path(), None)?)
                            .map_err(|e| e.in_file(file))?;
                        let numbers = numbers.into_iter().map(|number| number as usize);
                        let of_layer = places.entry(layer).or_default();
                        of_layer.insert(expert, numbers.collect());
                    }
                    _ => {}
                }
            }
        }
        for (layer, places) in places {
            if let Some(router) = routers.get_mut(&layer) {
                router.places = places;
            }
        }
        Ok(routers)
    }

    /// Takes what the ranks that share an expert recorded of it; ranks of expert parallelism have one each.
    fn read_expert(
        &self,
        hooked: &Hooked,
        dtype: DType,
        files: &[&PathBuf],
        places: Option<&Vec<usize>>,
        all: &mut OfExperts,
    ) -> Result<()> {
        let ranks = self.described.ranks;
        let of_rank = self.described.model.experts() / ranks.expert;
        let local = hooked.expert.unwrap_or_default();
        for (rank, files) in files.chunks(ranks.tensor).enumerate() {
            let shards = files.iter().map(|file| self.array(file, dtype, false));
            let shards = shards.collect::<Result<Vec<Tensor>>>()?;
            let rows = rows_of(&shards, hooked.hook, self.described.model.heads());
            let expert = OfExpert {
                rows: rows.map_err(|e| e.in_file(files[0]))?,
                places: places.cloned(),
                layout: hooked.hook.layout,
                ranks: ranks.expert,
            };
            all.experts.insert(rank * of_rank + local, expert);
        }
        Ok(())
    }

    /// The stages that a dumped name shows.
    fn hooked(&self, name: &str) -> Vec<Hooked> {
        let hook = (self.described.hook)(name);
        let hooked = |hook: String| self.described.model.hooked(self.described.framework, &hook);
        hook.map(hooked).unwrap_or_default()
    }

    /// The variant in which a hook of this run shows its stage.
    fn variant(&self, hooked: &Hooked) -> Variant {
        let divided_by = match (&self.described.arithmetic, hooked.layer) {
            (Arithmetic::Megatron(megatron), Some(layer)) if hooked.hook.divided_by_layer => {
                megatron.score_divisor(layer)
            }
            _ => Variant::PLAIN.divided_by,
        };
        Variant {
            without_bias: hooked.hook.without_bias,
            divided_by,
        }
    }

    /// The files of every rank, or an error that names the one that is missing.
    fn all_ranks<'f>(
        &self,
        name: &str,
        files: &'f BTreeMap<usize, PathBuf>,
    ) -> Result<Vec<&'f PathBuf>> {
        let ranks = self.described.ranks.files();
        let kind = match self.described.ranks.context {
            1 => "tensor-parallel",
            _ => "tensor- and context-parallel",
        };
        (0..ranks.max(files.len()))
            .map(|rank| {
                files.get(&rank).filter(|_| rank < ranks).ok_or_else(|| {
                    let any = files
                        .values()
                        .next()
                        .map_or(self.folder.path(), PathBuf::as_path);
                    let expected = format!("{name} of {ranks} {kind} ranks");
                    let found: Vec<_> = files.keys().collect();
                    BadInput::new(any, expected, format!("ranks {found:?}")).into()
                })
            })
            .collect()
    }

    /// An array in the type that its values have in truth: the step's, or autocast's; or fp32 of logits that no
    /// narrower type holds.
    fn array(&self, file: &Path, run: DType, is_logits: bool) -> Result<Tensor> {
        let declared = self.dump.listing.type_of(file).unwrap_or(run);
        let array = npy::read(file, Some(declared))?;
        if array.dtype().float().is_none() {
            let expected = format!("values of a run in {run}");
            let fault = BadInput::new(file, expected, array.dtype().to_string());
            let remedy = "if these are bits of a half type, name it as dtype in the settings";
            return Err(fault.remedy(remedy).into());
        }
        if self.autocast == Some(array.dtype()) {
            return Ok(array);
        }
        match array.narrowed_exactly(run) {
            Err(_) if is_logits && array.dtype() == DType::F32 => Ok(array),
            narrowed => narrowed,
        }
    }

    /// A stage's value, of what every rank recorded.
    fn read(
        &self,
        stage: &StageId,
        dtype: DType,
        files: &[&PathBuf],
        hook: &Hook,
        tokens: [usize; 2],
    ) -> Result<Read> {
        let heads = self.described.model.heads();
        let is_logits = self.described.model.role(stage) == Some(Role::Logits);
        let shards = files
            .iter()
            .map(|file| {
                let array = self.array(file, dtype, is_logits)?;
                hook.part
                    .map_or(Ok(array.clone()), |part| part.of(&array, heads))
            })
            .zip(files)
            .map(|(shard, file)| shard.map_err(|e: Error| e.in_file(*file)))
            .collect::<Result<Vec<Tensor>>>()?;
        // transformers 5 projects keys and values of a latent as of one head.
        if let [shard] = shards.as_slice()
            && let &[batch, 1, positions, columns] = shard.shape()
            && hook.layout == Layout::Bsh
        {
            let shard = shard.clone().reshaped(&[batch, positions, columns])?;
            let read = self.joined(stage, vec![shard], files, hook, tokens)?;
            return Ok(Read {
                is_made: true,
                ..read
            });
        }
        self.joined(stage, shards, files, hook, tokens)
    }

    /// As [`Self::read`], of ranks' arrays or their parts.
    fn joined(
        &self,
        stage: &StageId,
        mut shards: Vec<Tensor>,
        files: &[&PathBuf],
        hook: &Hook,
        tokens: [usize; 2],
    ) -> Result<Read> {
        let is_grid = hook.rows == Rows::Grid;
        if !is_grid {
            // Rows of all tokens, of as many sequences as a rank has.
            let batch = tokens[0] / self.described.ranks.expert;
            for (shard, file) in shards.iter_mut().zip(files) {
                let rows = shard.shape().first().copied().unwrap_or(0);
                let positions = rows.checked_div(batch).unwrap_or(0);
                let columns = shard.len().checked_div(rows).unwrap_or(0);
                let grid = match hook.layout.sequence_axis() {
                    0 => [positions, batch, columns],
                    _ => [batch, positions, columns],
                };
                let grid = shard.clone().reshaped(&grid);
                *shard = grid.map_err(|_| {
                    let expected = format!("rows of {batch} sequences");
                    BadInput::new(*file, expected, format!("shape {:?}", shard.shape()))
                })?;
            }
        }
        let shards = &shards;
        let sharding = Sharding {
            layout: hook.layout,
            join: hook.join,
            may_be_gathered: hook.may_be_gathered,
        };
        let Joined {
            value: joined,
            join,
            layout,
            drift,
            is_made,
        } = self
            .described
            .ranks
            .join(stage, shards, files, sharding, tokens)?;
        let joined = if hook.part.is_some() {
            Part::joined(joined)?
        } else {
            joined
        };
        let value = layout.to_batch_first(&joined).ok_or_else(|| {
            let found = format!("shape {:?}", joined.shape());
            BadInput::new(files[0], format!("an array laid out as {layout:?}"), found)
        })?;
        let batch = tokens[0];
        let repeated = hook.one_row && batch > 1 && value.shape()[0] == 1;
        let value = if repeated {
            Tensor::concat(&vec![value; batch], 0)?
        } else {
            value
        };
        Ok(Read {
            value,
            join,
            layout,
            drift,
            is_made: is_made || repeated || hook.part.is_some() || !is_grid,
        })
    }

    fn shapes(&self, tokens: [usize; 2]) -> Result<Shapes> {
        let Described {
            model,
            dtype,
            arithmetic,
            ..
        } = self.described;
        let plan = model.plan(*dtype, arithmetic)?;
        let mut shapes = plan.shapes(tokens);
        let shapes = shapes.as_mut().map_err(|e| {
            let expected = "settings of a model whose stages fit together";
            BadInput::new(self.dump.config_path(), expected, e.to_string())
        })?;
        let steps = plan.steps().iter();
        let stages = steps
            .filter_map(|step| Some((step.stage.clone(), shapes.remove(&step.id)?)))
            .collect();
        let steps = plan.steps().iter();
        let types = steps.map(|step| (step.stage.clone(), step.numerics.out));
        Ok(Shapes {
            tokens,
            stages,
            types: types.collect(),
        })
    }

    /// Refuses a value that is not one of this model on these tokens. How many columns the logits have is
    /// for the arrays to say.
    fn check_shape(
        &self,
        stage: &StageId,
        value: &Tensor,
        file: &Path,
        shapes: &Shapes,
    ) -> Result<()> {
        let Some(expected) = shapes.stages.get(stage) else {
            return Ok(());
        };
        let free = usize::from(self.described.model.role(stage) == Some(Role::Logits));
        let fixed = expected.len() - free;
        let found = value.shape();
        if found.len() == expected.len() && found[..fixed] == expected[..fixed] {
            return Ok(());
        }
        let config = self.dump.config_path();
        let ranks = match self.described.ranks.files() {
            1 => String::new(),
            ranks => format!(" of {ranks} ranks' arrays joined"),
        };
        let of_columns = if free == 1 {
            " and any number of columns"
        } else {
            ""
        };
        let whole = format!(
            "shape {:?}{of_columns}, batch first, for tokens {:?} and the sizes in {}",
            &expected[..fixed],
            shapes.tokens,
            config.display()
        );
        let fault = BadInput::new(file, whole, format!("{found:?}{ranks}"));
        let remedy = "check that tokens and settings are those of this run";
        Err(fault.at(stage.as_str()).remedy(remedy).into())
    }

    /// Keeps a value that no file of the dump is.
    fn write(&self, stage: &StageId, value: &Tensor) -> Result<(Content, Layout)> {
        let file = format!("{stage}.npy");
        let path = self.folder.file(&file)?;
        npy::write(&path, value)?;
        let content = Content::Full {
            join: Join::Replicated,
            files: vec![self.record(&path, file)?],
            rank_drift: None,
        };
        let layout = if value.shape().len() == 4 {
            Layout::Bnss
        } else {
            Layout::Bsh
        };
        Ok((content, layout))
    }

    fn keep(
        &self,
        stage: &StageId,
        join: Join,
        files: &[&PathBuf],
        rank_drift: Option<f64>,
    ) -> Result<Content> {
        let files = match join {
            Join::Replicated => vec![self.copy(files[0], &format!("{stage}.npy"))?],
            Join::Concat(_) if files.len() == 1 => {
                vec![self.copy(files[0], &format!("{stage}.npy"))?]
            }
            Join::Concat(_) => files
                .iter()
                .enumerate()
                .map(|(rank, file)| self.copy(file, &format!("{stage}.tp{rank}.npy")))
                .collect::<Result<_>>()?,
        };
        Ok(Content::Full {
            join,
            files,
            rank_drift,
        })
    }

    fn keep_statistics(&self, stage: &StageId, value: &Tensor) -> Result<StatisticsFiles> {
        let logits = self.described.model.role(stage) == Some(Role::Logits);
        let shards = logits
            .then(|| NonZeroUsize::new(self.described.ranks.tensor))
            .flatten();
        let statistics = Statistics::new(value, shards)?;
        let statistics = statistics.with_projection(value, Projection::SEED)?;
        let projection = statistics.token_projection;
        let keep = |name: &str, column: Option<Vec<f64>>| -> Result<Option<FileRecord>> {
            column
                .map(|column| {
                    let file = format!("{stage}.{name}.npy");
                    let path = self.folder.file(&file)?;
                    npy::write(&path, &Tensor::from_vec(&[column.len()], column)?)?;
                    self.record(&path, file)
                })
                .transpose()
        };
        Ok(StatisticsFiles {
            token_mean: keep("token_mean", statistics.token_mean)?,
            token_min: keep("token_min", statistics.token_min)?,
            token_max: keep("token_max", statistics.token_max)?,
            token_sum: keep("token_sum", statistics.token_sum)?,
            vocab_shard_mean: keep("vocab_shard_mean", statistics.vocab_shard_mean)?,
            token_projection: match projection {
                Some(Projection { seed, values }) => keep("token_projection", Some(values))?
                    .map(|values| ProjectionFile { seed, values }),
                None => None,
            },
        })
    }

    /// The mask that the run was given; or, of rows that hold several sequences, which one tokens are of.
    fn attention_mask(&self) -> Result<Option<FileRecord>> {
        let file = "attention_mask.npy";
        if let Some(path) = self.dump.beside_tokens(file)? {
            let mask = npy::read(&path, None)?;
            let other = integers(&mask).ok();
            let other = other.and_then(|mask| mask.into_iter().find(|n| !(0..=1).contains(n)));
            if let Some(other) = other {
                let expected = "an attention mask of 0 and 1";
                return Err(BadInput::new(path, expected, other.to_string()).into());
            }
            return self.copy(&path, file).map(Some);
        }
        let Some(path) = self.dump.beside_tokens("position_ids.npy")? else {
            return match self.described.packs {
                Some(true) if self.described.framework != Framework::Transformers => {
                    let expected =
                        "positions that say where sequences begin, as reset_attention_mask is true";
                    let fault = BadInput::new(self.dump.config_path(), expected, "none");
                    let remedy =
                        "dump the run again with parity_dump.py, which records position_ids";
                    Err(fault.remedy(remedy).into())
                }
                _ => Ok(None),
            };
        };
        let positions = npy::read(&path, None)?;
        let Ok(all) = integers(&positions) else {
            // Refused with what it has to be when the golden is read.
            return Ok(None);
        };
        let rows = all.chunks(positions.row_len().max(1));
        let mut numbers = Vec::with_capacity(all.len());
        for row in rows {
            let mut number = 1_i64;
            for (index, position) in row.iter().enumerate() {
                let follows = index == 0 || row[index - 1].checked_add(1) == Some(*position);
                number += i64::from(!follows);
                numbers.push(number);
            }
        }
        if numbers.iter().all(|number| *number == 1) {
            return Ok(None);
        }
        match self.described.packs {
            Some(true) => {
                let to = self.folder.file(file)?;
                npy::write(&to, &Tensor::from_vec(positions.shape(), numbers)?)?;
                self.record(&to, file.to_owned()).map(Some)
            }
            Some(false) => Ok(None),
            None => {
                let expected = "to know whether positions that start again begin another sequence";
                let found = "a run that does not say whether it used a cache";
                let fault = BadInput::new(path, expected, found).at("numerics.use_cache");
                let remedy = "dump the run again with parity_dump.py, which records use_cache";
                Err(fault.remedy(remedy).into())
            }
        }
    }

    fn copy(&self, from: &Path, file: &str) -> Result<FileRecord> {
        let to = self.folder.file(file)?;
        fs::copy(from, &to).map_err(Error::io(from, "copy"))?;
        // Dumps are often read-only; a golden is the user's own.
        let mut permissions = to.metadata().map_err(Error::io(&to, "read"))?.permissions();
        #[cfg(unix)]
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        fs::set_permissions(&to, permissions).map_err(Error::io(&to, "write"))?;
        self.record(&to, file.to_owned())
    }

    fn record(&self, path: &Path, file: String) -> Result<FileRecord> {
        let digest = Algorithm::Blake3.digest(&MappedFile::open(path)?);
        Ok(FileRecord { file, digest })
    }

    fn provenance(&self) -> Result<Provenance> {
        let mut extra: BTreeMap<_, _> = self.dump.provenance().clone().into_iter().collect();
        let gpu = self.taken(&mut extra, "gpu", "a GPU as parity_dump.py describes it")?;
        let alibi_slopes = self.taken(&mut extra, "alibi_slopes", "a slope for every head")?;
        let framework_version = self.taken(&mut extra, "framework_version", "a version")?;
        let commit = self.taken(&mut extra, "commit", "a commit")?;
        let numerics: Option<_> = self.taken(&mut extra, "numerics", "settings by name")?;
        let mut text = |key: &str| match extra.remove(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        Ok(Provenance {
            framework: self.described.framework.to_string(),
            framework_version,
            commit,
            gpu,
            autocast: self.autocast,
            numerics: numerics.unwrap_or_default(),
            alibi_slopes,
            torch: text("torch"),
            // Dumps that do not say are from before GPUs were dumped from.
            device: text("device").unwrap_or_else(|| "cpu".to_owned()),
            extra,
            ..Provenance::default()
        })
    }

    /// An entry that has a key of its own in a manifest, taken from among those that have none.
    fn taken<T: serde::de::DeserializeOwned>(
        &self,
        extra: &mut BTreeMap<String, Value>,
        key: &str,
        what: &str,
    ) -> Result<Option<T>> {
        extra.remove(key);
        self.dump.optional(&[key], what)
    }
}
