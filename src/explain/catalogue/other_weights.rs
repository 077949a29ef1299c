//! Weights of another module: of a neighbouring layer, of the other norm.

use crate::error::Result;
use crate::explain::rewrite::Rewrite;
use crate::explain::subject::Subject;
use crate::plan::StageId;
use std::collections::BTreeSet;

/// Tensors above this size are tried from neighbouring layers only.
const LARGE: usize = 1 << 22;
/// How many layers before and after count as neighbours.
const NEIGHBOURS: usize = 2;

pub(super) fn rewrites<'a>(subject: &Subject<'a>) -> Result<Vec<Rewrite<'a>>> {
    let subject = *subject;
    let mut all = Vec::new();
    for module in modules(&subject) {
        let params = params_of(&subject, &module);
        for other in others(&subject, &module) {
            let pairs: Vec<(String, String)> = params
                .iter()
                .map(|name| (name.clone(), format!("{other}{}", &name[module.len()..])))
                .collect();
            let whole = pairs.len() > 1;
            let mut groups = vec![(pairs.clone(), "its parameters are")];
            if whole {
                groups.extend(pairs.into_iter().map(|pair| {
                    let what = match pair.0.ends_with("bias") {
                        true => "its bias is",
                        false => "its weight is",
                    };
                    (vec![pair], what)
                }));
            } else if let Some((group, what)) = groups.first_mut() {
                *what = if group[0].0.ends_with("bias") {
                    "its bias is"
                } else {
                    "its weight is"
                };
            }
            for (pairs, what) in groups {
                let place = relative(&module, &other);
                let finding =
                    format!("{what} not the reference's: the reference has those of {place}");
                let rewrite = Rewrite::new(finding, "with those", move |segment| {
                    for (name, other) in &pairs {
                        segment
                            .params
                            .insert(name.clone(), subject.weights.load(other)?);
                    }
                    Ok(())
                });
                all.push(rewrite);
            }
        }
    }
    Ok(all)
}

/// Parameters that another module has, too, though they are no constants: one of the two was
/// written twice.
pub(super) fn duplicates(subject: &Subject<'_>) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for module in modules(subject) {
        for name in params_of(subject, &module) {
            let ours = &subject.segment.params[&name];
            let bytes = ours.bytes();
            let size = ours.dtype().size();
            if bytes.chunks(size).all(|value| *value == bytes[..size]) {
                continue;
            }
            for other in others(subject, &module) {
                let theirs = format!("{other}{}", &name[module.len()..]);
                if subject.weights.load(&theirs)?.bits_equal(ours) {
                    all.push(format!(
                        "{name} is {theirs}, bit for bit: one was written over the other"
                    ));
                }
            }
        }
    }
    Ok(all)
}

/// The modules whose parameters the segment reads: names without their last part.
fn modules(subject: &Subject<'_>) -> BTreeSet<String> {
    let names = subject.segment.params.keys();
    names
        .filter_map(|name| name.rsplit_once('.').map(|(module, _)| module.to_owned()))
        .collect()
}

fn params_of(subject: &Subject<'_>, module: &str) -> Vec<String> {
    let names = subject.segment.params.keys();
    let of_module = |name: &&String| {
        name.rsplit_once('.')
            .is_some_and(|(other, _)| other == module)
    };
    let mut names: Vec<String> = names.filter(of_module).cloned().collect();
    names.sort();
    names
}

/// Modules with parameters of the same names and shapes.
fn others(subject: &Subject<'_>, module: &str) -> Vec<String> {
    let ours = params_of(subject, module);
    let large = ours
        .iter()
        .any(|name| subject.segment.params[name].len() > LARGE);
    let layer = |name: &str| StageId::from(name).layer();
    let mut found = BTreeSet::new();
    for name in subject.weights.names() {
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
            let theirs = subject
                .weights
                .stored(&format!("{other}{}", &name[module.len()..]));
            theirs.is_some_and(|theirs| theirs.shape == subject.segment.params[name].shape())
        });
        if fits {
            found.insert(other.to_owned());
        }
    }
    found.into_iter().collect()
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
