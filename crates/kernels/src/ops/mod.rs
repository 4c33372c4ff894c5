//! The ops between the products: each forward with its backward beside it, no tape. An op that needs an intermediate
//! again in its backward recomputes it from its inputs.

pub mod activation;
pub mod alibi;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod norm;
pub mod rope;
pub mod rounding;
pub mod softmax;
