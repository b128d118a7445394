//! Where a chain stood each time the cluster wrote its head down, and whether it still holds that.

use storage::audit::Hash;

/// What was written down of one chain.
#[derive(Clone, Debug, Default)]
pub struct Anchors(Vec<(u64, Vec<u8>)>);

impl Anchors {
    /// Adds a place and the hash there.
    pub fn add(&mut self, sequence: u64, hash: Vec<u8>) {
        self.0.push((sequence, hash));
    }

    /// Whether nothing was written down.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is wrong with the hash at a place.
    pub fn trouble_at(&self, sequence: u64, hash: &Hash) -> Option<String> {
        let differs = |(at, known): &(u64, Vec<u8>)| *at == sequence && known[..] != hash[..];
        self.0.iter().any(differs).then(|| {
            format!("record {sequence} is not the one that was there when the cluster wrote its hash down")
        })
    }

    /// What is wrong with a chain that ends here.
    pub fn trouble_of_end(&self, last: u64) -> Option<String> {
        let known = self.0.iter().map(|(at, _)| *at).max()?;
        (known > last).then(|| {
            format!(
                "ends at record {last}, but the cluster wrote down that there was a record {known}"
            )
        })
    }
}
