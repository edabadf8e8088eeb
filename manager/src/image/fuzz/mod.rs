//! Input made from the grammars that are read here, in odd shapes: what is true of every answer. The number of cases is
//! that of PROPTEST_CASES.

mod installs;
mod python;
