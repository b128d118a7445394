//! What a history shows. Checkers are pure: a history in, a list of what is wrong out.

pub mod register;
