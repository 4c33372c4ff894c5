//! The contract suite over `LocalSpan`.
