//! The operations by table; the model over `serde_json::Value` is in `tests/update_model.rs`.
