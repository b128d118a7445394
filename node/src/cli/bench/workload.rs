//! What a benchmark does: the mix of operations, and which keys they hit.
//!
//! The mixes A to F are those of YCSB (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", 2010).

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use rand::Rng;
use rand::rngs::SmallRng;
use xxhash_rust::xxh3::xxh3_64;

/// The skew of YCSB.
const ZIPFIAN_CONSTANT: f64 = 0.99;
/// Keys of one scan at most, as in YCSB E.
pub(super) const SCAN_DOCUMENTS_MAX: u64 = 100;

/// What one request, or pair of requests, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Read,
    Update,
    Insert,
    Scan,
    /// A read and then an update of the same key, measured as one.
    ReadModifyWrite,
}

impl Operation {
    pub(super) const ALL: [Self; 5] = [
        Self::Read,
        Self::Update,
        Self::Insert,
        Self::Scan,
        Self::ReadModifyWrite,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Update => "update",
            Self::Insert => "insert",
            Self::Scan => "scan",
            Self::ReadModifyWrite => "rmw",
        }
    }

    pub(super) fn is_write(self) -> bool {
        matches!(self, Self::Update | Self::Insert | Self::ReadModifyWrite)
    }
}

/// A named mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Workload {
    /// Half reads, half updates
    A,
    /// 95 % reads, 5 % updates
    B,
    /// Only reads
    C,
    /// 95 % reads of the latest documents, 5 % inserts
    D,
    /// 95 % scans, 5 % inserts
    E,
    /// Half reads, half read-modify-writes
    F,
}

/// Shares of the operations, in percent; they add up to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mix {
    /// In the order of [`Operation::ALL`].
    shares: [u32; 5],
}

impl Mix {
    pub(super) fn of(workload: Workload) -> Self {
        Self {
            shares: match workload {
                Workload::A => [50, 50, 0, 0, 0],
                Workload::B => [95, 5, 0, 0, 0],
                Workload::C => [100, 0, 0, 0, 0],
                Workload::D => [95, 0, 5, 0, 0],
                Workload::E => [0, 0, 5, 95, 0],
                Workload::F => [50, 0, 0, 0, 50],
            },
        }
    }

    pub(super) fn choose(&self, random: &mut SmallRng) -> Operation {
        let mut point = random.random_range(0..100);
        for (operation, share) in Operation::ALL.into_iter().zip(self.shares) {
            if point < share {
                return operation;
            }
            point -= share;
        }
        Operation::Read
    }

    pub(super) fn share(&self, operation: Operation) -> u32 {
        Operation::ALL
            .iter()
            .zip(self.shares)
            .find(|(other, _)| **other == operation)
            .map_or(0, |(_, share)| share)
    }
}

impl FromStr for Mix {
    type Err = String;

    /// `read=50,update=50`; operations left out have no share.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut shares = [0; 5];
        for part in text.split(',') {
            let (name, share) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not OPERATION=PERCENT"))?;
            let index = Operation::ALL
                .iter()
                .position(|operation| operation.name() == name.trim());
            let index = index
                .ok_or_else(|| format!("`{name}` is none of read, update, insert, scan, rmw"))?;
            shares[index] = share
                .trim()
                .parse()
                .map_err(|_| format!("`{share}` is no percentage"))?;
        }
        match shares.iter().copied().map(u64::from).sum::<u64>() {
            100 => Ok(Self { shares }),
            sum => Err(format!("the shares add up to {sum}, not to 100")),
        }
    }
}

/// Which keys are hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Distribution {
    /// Few keys often, spread over the key space
    Zipfian,
    /// All keys alike
    Uniform,
    /// The newest keys most often
    Latest,
}

impl Distribution {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zipfian => "zipfian",
            Self::Uniform => "uniform",
            Self::Latest => "latest",
        }
    }
}

/// Ranks from 0, the lower the more frequent.
///
/// Source: Gray et al., "Quickly Generating Billion-Record Synthetic Databases", SIGMOD 1994, section 3.2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zipfian {
    items: u64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    /// `items` is at least 1. Takes time linear in it.
    pub(super) fn new(items: u64) -> Self {
        let items = items.max(1);
        let theta = ZIPFIAN_CONSTANT;
        let zeta: f64 = (1..=items).map(|rank| (rank as f64).powf(-theta)).sum();
        let zeta_2 = 1.0 + 0.5_f64.powf(theta);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta)) / (1.0 - zeta_2 / zeta);
        Self {
            items,
            alpha: 1.0 / (1.0 - theta),
            zeta,
            eta,
        }
    }

    pub(super) fn choose(&self, random: &mut SmallRng) -> u64 {
        let point: f64 = random.random();
        let scaled = point * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(ZIPFIAN_CONSTANT) {
            return 1.min(self.items - 1);
        }
        let rank =
            (self.items as f64 * (self.eta * point - self.eta + 1.0).powf(self.alpha)) as u64;
        rank.min(self.items - 1)
    }
}

/// Chooses keys for all clients.
#[derive(Debug)]
pub(super) struct Keys {
    distribution: Distribution,
    zipfian: Zipfian,
    loaded: u64,
    next: AtomicU64,
    /// Newest keys that other clients may still be inserting.
    margin: u64,
    /// Sets the inserted keys of this run apart from those of earlier ones.
    run: u32,
}

impl Keys {
    /// `loaded` keys exist; `clients` insert at once; `run` differs between runs on the same bucket.
    pub(super) fn new(distribution: Distribution, loaded: u64, clients: u64, run: u32) -> Self {
        let loaded = loaded.max(1);
        // Uniform choices need no sums over all ranks.
        let items = if distribution == Distribution::Uniform {
            1
        } else {
            loaded
        };
        Self {
            distribution,
            zipfian: Zipfian::new(items),
            loaded,
            next: AtomicU64::new(loaded),
            margin: clients,
            run,
        }
    }

    /// The number of an existing key.
    pub(super) fn existing(&self, random: &mut SmallRng) -> u64 {
        match self.distribution {
            Distribution::Uniform => random.random_range(0..self.loaded),
            // Scrambled, so that the frequent keys are not neighbours.
            Distribution::Zipfian => {
                xxh3_64(&self.zipfian.choose(random).to_le_bytes()) % self.loaded
            }
            Distribution::Latest => {
                let inserted = self.next.load(Ordering::Relaxed) - self.loaded;
                let newest = self.loaded + inserted.saturating_sub(self.margin) - 1;
                newest.saturating_sub(self.zipfian.choose(random))
            }
        }
    }

    /// The number of a new key.
    pub(super) fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The key of a number.
    pub(super) fn name(&self, number: u64) -> String {
        if number < self.loaded {
            return key_name(number);
        }
        format!("new{:06x}{:07}", self.run & 0xff_ffff, number - self.loaded)
    }
}

/// The key of a loaded document; all have the same length up to 10^12 of them.
pub(super) fn key_name(number: u64) -> String {
    format!("user{number:012}")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn counts(keys: &Keys, draws: usize) -> Vec<u64> {
        let mut random = SmallRng::seed_from_u64(7);
        let mut counts = vec![0; 1000];
        for _ in 0..draws {
            counts[keys.existing(&mut random) as usize] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    #[test]
    fn zipfian_follows_its_law() {
        let zipfian = Zipfian::new(1000);
        let mut random = SmallRng::seed_from_u64(1);
        let mut counts = vec![0_u32; 1000];
        for _ in 0..200_000 {
            counts[zipfian.choose(&mut random) as usize] += 1;
        }
        let expected = |rank: f64| 200_000.0 / (zipfian.zeta * (rank + 1.0).powf(ZIPFIAN_CONSTANT));
        for rank in [0_usize, 1] {
            let ratio = f64::from(counts[rank]) / expected(rank as f64);
            assert!((0.95..1.05).contains(&ratio), "rank {rank}: {ratio}");
        }
        // The closed form is an approximation past the second rank: sums over ranges are close.
        let tail: u32 = counts[100..].iter().sum();
        let tail_expected: f64 = (100..1000).map(|rank| expected(f64::from(rank))).sum();
        assert!(
            (0.9..1.1).contains(&(f64::from(tail) / tail_expected)),
            "{tail} {tail_expected}"
        );
    }

    #[test]
    fn uniform_hits_all_keys_alike_and_zipfian_does_not() {
        let uniform = counts(&Keys::new(Distribution::Uniform, 1000, 1, 0), 100_000);
        assert!(
            uniform[0] < 200 && uniform[999] > 30,
            "{} {}",
            uniform[0],
            uniform[999]
        );
        let zipfian = counts(&Keys::new(Distribution::Zipfian, 1000, 1, 0), 100_000);
        assert!(zipfian[0] > 10_000, "{}", zipfian[0]);
    }

    #[test]
    fn latest_prefers_new_keys_but_none_that_may_be_missing() {
        let keys = Keys::new(Distribution::Latest, 1000, 4, 0);
        for _ in 0..10 {
            keys.fresh();
        }
        let mut random = SmallRng::seed_from_u64(3);
        let drawn: Vec<u64> = (0..10_000).map(|_| keys.existing(&mut random)).collect();
        assert_eq!(drawn.iter().max(), Some(&1005));
        assert!(drawn.iter().filter(|key| **key == 1005).count() > 500);
    }

    #[test]
    fn one_key_is_enough_for_every_distribution() {
        for distribution in [
            Distribution::Zipfian,
            Distribution::Uniform,
            Distribution::Latest,
        ] {
            let mut random = SmallRng::seed_from_u64(3);
            assert_eq!(Keys::new(distribution, 1, 64, 0).existing(&mut random), 0);
        }
    }

    #[test]
    fn mixes_add_up() {
        for workload in Workload::value_variants() {
            assert_eq!(Mix::of(*workload).shares.iter().sum::<u32>(), 100);
        }
        assert_eq!(
            "read=50,update=50,insert=0,scan=0".parse(),
            Ok(Mix::of(Workload::A))
        );
        assert!("read=50".parse::<Mix>().is_err());
        assert!("peek=100".parse::<Mix>().is_err());
    }

    #[test]
    fn keys_have_one_length() {
        assert_eq!(key_name(0), "user000000000000");
        assert_eq!(key_name(999_999_999_999).len(), key_name(0).len());
        let keys = Keys::new(Distribution::Uniform, 10, 1, 0xab12_3456);
        assert_eq!(keys.name(9), key_name(9));
        assert_eq!(keys.name(10), "new1234560000000");
    }
}
