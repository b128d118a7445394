//! The operations and their names.

use std::fmt;

/// What a step does. The effects are those of contract section 6; what it leaves open is listed in the module above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Overwrites.
    Set,
    /// Adds.
    Inc,
    /// Subtracts.
    Dec,
    /// Multiplies.
    Mul,
    /// Keeps the smaller.
    Min,
    /// Keeps the larger.
    Max,
    /// Bits that both have.
    And,
    /// Bits that one has.
    Or,
    /// Bits that only one has.
    Xor,
    /// The time of the write.
    CurrentDate,
    /// Appends an element.
    Push,
    /// Puts an element in front.
    Unshift,
    /// Drops the last element.
    Pop,
    /// Drops the first element.
    Shift,
    /// Overwrites an element that is there.
    Replace,
    /// Appends an element unless an equal one is there.
    Add,
    /// Removes equal elements, or a key.
    Remove,
    /// Sets keys.
    Put,
    /// Gives a key another name.
    Rename,
}

impl Operation {
    /// All of them, with the names that clients send.
    pub const ALL: [(Operation, &str); 19] = [
        (Operation::Set, "$set"),
        (Operation::Inc, "$inc"),
        (Operation::Dec, "$dec"),
        (Operation::Mul, "$mul"),
        (Operation::Min, "$min"),
        (Operation::Max, "$max"),
        (Operation::And, "$and"),
        (Operation::Or, "$or"),
        (Operation::Xor, "$xor"),
        (Operation::CurrentDate, "$currentDate"),
        (Operation::Push, "$push"),
        (Operation::Unshift, "$unshift"),
        (Operation::Pop, "$pop"),
        (Operation::Shift, "$shift"),
        (Operation::Replace, "$replace"),
        (Operation::Add, "$add"),
        (Operation::Remove, "$remove"),
        (Operation::Put, "$put"),
        (Operation::Rename, "$rename"),
    ];

    /// The operation of a name.
    pub fn parse(name: &str) -> Option<Operation> {
        Operation::ALL
            .into_iter()
            .find(|(_, known)| *known == name)
            .map(|(operation, _)| operation)
    }

    /// The name that clients send.
    pub fn as_str(self) -> &'static str {
        Operation::ALL
            .into_iter()
            .find(|(operation, _)| *operation == self)
            .map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
