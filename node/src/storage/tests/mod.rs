//! Whole datasets through the storage: from a tree on disk to a manifest, to pieces, to an equal
//! tree; and the same with every call to the disk failing once.

mod checked;
mod faults;
mod fixture;
mod resume;
mod round_trip;
mod seeding;
mod small;
mod verifying;
