//! placeholder
/// A step.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct Step {
    pub step: u64,
    pub loss: f64,
    pub learning_rate: f32,
    pub grad_norm: f64,
    pub tokens: u64,
    pub seconds: f64,
    pub memory_bytes: Option<u64>,
}
/// An evaluation.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct Evaluation {
    pub step: u64,
    pub name: String,
    pub score: f64,
}
