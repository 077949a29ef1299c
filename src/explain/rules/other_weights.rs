//! Weights of another module: of a neighbouring layer, of the other norm.

use crate::error::Result;
use crate::explain::Exchanged;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::modules::Layer;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::HeadPart;
use crate::plan::{StageId, Step};
use std::collections::BTreeSet;

/// Tensors above this size are tried from neighbouring layers only.
const LARGE: usize = 1 << 22;
/// How many layers before and after count as neighbours.
const NEIGHBOURS: usize = 2;

/// The rule's id.
pub(in crate::explain) const ID: &str = "other-weights";

pub(super) struct OtherWeights;

impl Rule for OtherWeights {
    fn id(&self) -> &'static str {
        ID
    }

    fn what(&self) -> &'static str {
        "a module has the weights of another: of a neighbouring layer, of the other norm"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let context = *context;
        let mut all = Vec::new();
        for module in modules(&context) {
            let params = params_of(&context, &module);
            for other in others(&context, &module) {
                let pairs: Vec<(String, String)> = params
                    .iter()
                    .map(|name| (name.clone(), format!("{other}{}", &name[module.len()..])))
                    .collect();
                let mut groups = vec![pairs.clone()];
                if pairs.len() > 1 {
                    groups.extend(pairs.into_iter().map(|pair| vec![pair]));
                }
                for pairs in groups {
                    let (what, is) = match pairs.as_slice() {
                        [(name, _)] if name.ends_with("bias") => ("bias", "is"),
                        [_] => ("weight", "is"),
                        _ => ("parameters", "are"),
                    };
                    let place = relative(&module, &other);
                    let finding = format!(
                        "its {what} {is} not the reference's: the reference has those of {place}"
                    );
                    let remedy = format!("with the {what} of {place}");
                    let rewrite = Rewrite::new(finding, remedy, move |subgraph| {
                        for (name, other) in &pairs {
                            subgraph
                                .params
                                .insert(name.clone(), context.weights.load(other)?);
                        }
                        Ok(())
                    });
                    all.push(rewrite.exchanging(exchanged(&module, &other)));
                }
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("the two norms of a block swapped", |modules| {
                let first = modules.block_norms().next()?;
                let layer = first.stage.layer();
                // Those of heads or latents have other widths.
                let width = |norm: &Step| norm.params.first().map(|param| param.shape.clone());
                let mut norms = modules.block_norms().skip(1);
                let second = norms
                    .find(|norm| norm.stage.layer() == layer && width(norm) == width(first))?;
                let (module, _) = second.params.first()?.name.rsplit_once('.')?;
                let edits = Edits::named_by(format!("those of {}", StageId::from(module).kind()));
                let pairs = first.params.iter().zip(&second.params);
                Some(pairs.fold(edits, |edits, (a, b)| edits.swap(&a.name, &b.name)))
            }),
            Bug::new("weights of the next layer", |modules| {
                let mut layers = modules.widening();
                let (first, second) = (layers.next()?, layers.next()?);
                let edits = Edits::named_by("those of the next layer");
                let (first, second) = (first.params(), second.params());
                let pairs = first.iter().zip(&second);
                Some(pairs.fold(edits, |edits, (a, b)| edits.swap(a, b)))
            }),
            Bug::new("two layers swapped", |modules| {
                let names = modules.steps().iter().flat_map(|step| &step.params);
                let of_layer = |layer: usize| -> Vec<&str> {
                    let names = names.clone().map(|param| param.name.as_str());
                    names
                        .filter(|name| StageId::from(*name).layer() == Some(layer))
                        .collect()
                };
                let (first, second) = (of_layer(0), of_layer(1));
                let edits = Edits::named_by("layers 0 and 1 are swapped");
                let pairs = first.iter().zip(&second);
                (!second.is_empty()).then(|| pairs.fold(edits, |edits, (a, b)| edits.swap(a, b)))
            }),
            Bug::new("key and value projections swapped", |modules| {
                let [key, value] =
                    [HeadPart::Key, HeadPart::Value].map(|part| modules.projections(part).next());
                let (key, value) = (key?.layer, value?.layer);
                swapped_modules(key, value)
            }),
            Bug::new("gate and up projections swapped", |modules| {
                let (gate, up) = modules.gated().next()?;
                swapped_modules(gate, up)
            }),
            Bug::new("a layer's weights written over the next", |modules| {
                let mut layers = modules.attention_outputs();
                let (first, second) = (layers.next()?.weight, layers.next()?.weight);
                Some(Edits::named_by("bit for bit").copy(&second.name, &first.name))
            }),
        ]
    }
}

/// Two modules of a block with each other's parameters.
fn swapped_modules(a: Layer<'_>, b: Layer<'_>) -> Option<Edits> {
    let (module, _) = b.weight.name.rsplit_once('.')?;
    let edits = Edits::named_by(format!("those of {}", StageId::from(module).kind()));
    let (ours, theirs) = (a.params(), b.params());
    let pairs = ours.iter().zip(&theirs);
    (a.weight != b.weight).then(|| pairs.fold(edits, |edits, (a, b)| edits.swap(a, b)))
}

/// Parameters that another module has, too, though they are no constants: one of the two was
/// written twice.
pub(in crate::explain) fn duplicates(context: &Context<'_>) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for module in modules(context) {
        for name in params_of(context, &module) {
            let ours = &context.subgraph.params[&name];
            let bytes = ours.bytes();
            let size = ours.dtype().size();
            if bytes.chunks(size).all(|value| *value == bytes[..size]) {
                continue;
            }
            for other in others(context, &module) {
                let theirs = format!("{other}{}", &name[module.len()..]);
                if context.weights.load(&theirs)?.bits_equal(ours) {
                    all.push(format!(
                        "{name} is {theirs}, bit for bit: one was written over the other"
                    ));
                }
            }
        }
    }
    Ok(all)
}

/// The modules whose parameters the subgraph reads: names without their last part.
fn modules(context: &Context<'_>) -> BTreeSet<String> {
    let names = context.subgraph.params.keys();
    names
        .filter_map(|name| name.rsplit_once('.').map(|(module, _)| module.to_owned()))
        .collect()
}

fn params_of(context: &Context<'_>, module: &str) -> Vec<String> {
    let names = context.subgraph.params.keys();
    let of_module = |name: &&String| {
        name.rsplit_once('.')
            .is_some_and(|(other, _)| other == module)
    };
    let mut names: Vec<String> = names.filter(of_module).cloned().collect();
    names.sort();
    names
}

/// Modules with parameters of the same names and shapes.
fn others(context: &Context<'_>, module: &str) -> Vec<String> {
    let ours = params_of(context, module);
    let large = ours
        .iter()
        .any(|name| context.subgraph.params[name].len() > LARGE);
    let layer = |name: &str| StageId::from(name).layer();
    let mut found = BTreeSet::new();
    for name in context.weights.names() {
        let Some((other, _)) = name.rsplit_once('.') else {
            continue;
        };
        let near = match (layer(module), layer(other)) {
            (Some(a), Some(b)) => a.abs_diff(b) <= NEIGHBOURS,
            _ => true,
        };
        if other == module || large && !near {
            continue;
        }
        let fits = ours.iter().all(|name| {
            let theirs = context
                .weights
                .stored(&format!("{other}{}", &name[module.len()..]));
            theirs.is_some_and(|theirs| theirs.shape == context.subgraph.params[name].shape())
        });
        if fits {
            found.insert(other.to_owned());
        }
    }
    found.into_iter().collect()
}

/// A module of which the other is the same in another layer.
fn exchanged(module: &str, other: &str) -> Option<Exchanged> {
    let [ours, theirs] = [module, other].map(StageId::from);
    let layers = ours.layer().zip(theirs.layer());
    let layers = layers.filter(|_| ours.kind() == theirs.kind());
    layers.map(|(own, other)| Exchanged {
        module: ours.kind(),
        layers: [own, other],
    })
}

/// Where another module lies, in words that are the same in every layer.
fn relative(module: &str, other: &str) -> String {
    let [ours, theirs] = [module, other].map(StageId::from);
    let same_kind = ours.kind() == theirs.kind();
    match (ours.layer(), theirs.layer()) {
        (Some(a), Some(b)) if same_kind && b == a + 1 => "the next layer".into(),
        (Some(a), Some(b)) if same_kind && a == b + 1 => "the layer before".into(),
        (Some(_), Some(b)) if same_kind => format!("layer {b}"),
        (Some(a), Some(b)) if a == b => theirs.kind(),
        _ => other.to_owned(),
    }
}
