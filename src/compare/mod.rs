//! How far apart two arrays are. Knows no model, no device and no report.
