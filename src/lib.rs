//! Proves that a converted model checkpoint is the same model, stage by stage.
//!
//! A [`case`] names a [`golden`] (activations that the reference framework recorded) and a
//! [`checkpoint`] (the converted model). The model's config gives a [`plan`]: every step with every
//! rounding spelled out. A [`backend`] computes the steps; [`diff`] feeds them, [`compare`] measures
//! what comes out against what was recorded, and [`report`] says it to people and programs.
//! [`selftest`] says what a case would catch.
//!
//! In another crate's tests: [`assert_parity`].

pub mod arch;
pub mod backend;
pub mod case;
pub mod checkpoint;
pub mod cli;
pub mod compare;
pub mod convert;
pub mod diff;
pub mod dump;
pub mod error;
pub mod exec;
pub mod explain;
pub mod golden;
pub mod memory;
pub mod op;
pub mod output;
pub mod plan;
pub mod report;
pub mod selftest;
pub mod tensor;

mod assert;
mod digest;
mod words;

pub use assert::{assert_parity, assert_parity_with};
pub use error::{Error, Result};
