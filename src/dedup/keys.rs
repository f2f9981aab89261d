//! The 64-bit hashes by which events are compared, one type for each meaning.

/// Defines a newtype of a 64-bit hash.
macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl From<$name> for u64 {
            fn from(hash: $name) -> Self {
                hash.0
            }
        }
    };
}

hash_type! {
    /// Hash of an event's id, or of the bytes of a rejected item.
    IdHash
}
hash_type! {
    /// Hash of a reading: type, space, timestamp and data.
    ReadingHash
}
hash_type! {
    /// Hash of an occupancy event's (type, space, timestamp), which has one current value.
    OccupancyKey
}
hash_type! {
    /// Hash of a source, the unit in which events are in order of time.
    SourceKey
}
