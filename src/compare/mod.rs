//! How far apart two arrays are, and whether that is too far. Knows no model and no report.

mod approx;
mod budget;
mod cuda;
mod flips;
mod kernel;
mod measure;
mod metrics;
mod projection;
mod replicas;
mod statistics;
mod tolerance;

pub use budget::Budget;
pub(crate) use cuda::SOURCE as KERNEL_SOURCE;
pub use flips::{Flips, rounding_of_means};
pub use measure::{Measure, Measuring};
pub use metrics::{
    Extreme, Metrics, NonFinite, Spec, WorstRatio, compare, compare_statistics, largest_difference,
    unequal,
};
pub use projection::Projection;
pub(crate) use replicas::{DRIFT_ULPS, Replicas};
pub use statistics::{Statistics, StatisticsDifference};
pub use tolerance::{Bound, BoundCheck, Close, Tolerance};
