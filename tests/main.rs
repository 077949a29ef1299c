//! Every test of what the library and the command do, a module a feature, in one binary: linking
//! takes longer than compiling most of them. The cases, whose names come from a folder, are in
//! `cases.rs`; unit tests are beside the code.

mod all_reduce;
mod bad_checkpoint;
mod bad_input;
mod bloom;
mod budget;
mod changing;
mod cli;
mod common;
mod contradictions;
mod convert;
mod coverage;
mod cuda;
mod decoders;
mod dumps;
mod emulated;
mod explained;
mod faults;
mod import;
mod kernels;
mod layouts;
mod limits;
mod mutations;
mod outputs;
mod padding;
mod remedies;
mod selftest;
mod shards;
mod sparse;
mod torch;
mod types;
mod words;
