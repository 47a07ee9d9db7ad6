//! The links of a swarm, in the order of their numbers.
//!
//! There are few, and nearly every event looks for one of them or walks over all: their numbers lie side by side,
//! so that a link is found, and a walk begins, without reading others.

use super::LinkId;
use super::link::Link;

/// All links of a swarm by their numbers, ascending.
#[derive(Debug, Default)]
pub(super) struct Links {
    ids: Vec<LinkId>,
    /// Each at the place of its number.
    #[expect(clippy::vec_box, reason = "a link is large, and moves when another one ends")]
    links: Vec<Box<Link>>,
}

impl Links {
    pub(super) const fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn get(&self, id: &LinkId) -> Option<&Link> {
        let at = self.ids.binary_search(id).ok()?;
        Some(&self.links[at])
    }

    pub(super) fn get_mut(&mut self, id: &LinkId) -> Option<&mut Link> {
        let at = self.ids.binary_search(id).ok()?;
        Some(&mut self.links[at])
    }

    pub(super) fn insert(&mut self, id: LinkId, link: Link) {
        match self.ids.binary_search(&id) {
            Ok(at) => *self.links[at] = link,
            Err(at) => {
                self.ids.insert(at, id);
                self.links.insert(at, Box::new(link));
            }
        }
    }

    pub(super) fn remove(&mut self, id: &LinkId) -> Option<Box<Link>> {
        let at = self.ids.binary_search(id).ok()?;
        self.ids.remove(at);
        Some(self.links.remove(at))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &LinkId> {
        self.ids.iter()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().map(AsRef::as_ref)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut().map(AsMut::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&LinkId, &Link)> {
        self.ids.iter().zip(self.values())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&LinkId, &mut Link)> {
        self.ids.iter().zip(self.links.iter_mut().map(AsMut::as_mut))
    }
}
