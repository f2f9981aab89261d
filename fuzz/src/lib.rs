//! Second readings of Butlr's rules, written without the parser's code, for the fuzz targets to
//! compare it with.

pub mod json;
pub mod rules;
