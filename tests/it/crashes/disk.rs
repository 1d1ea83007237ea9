//! Computes the images that a crash of the machine may leave on its disk, from a recording of the
//! calls to the file.
//!
//! The disk is the one that ARCHITECTURE.md assumes. Synced bytes stay. Any unsynced byte may be
//! written or not, in any order. A file's length changes like any other write.

use crate::holding_support::Dice;
use lockmgr::StorageCall;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::mem;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
pub(super) enum Event {
    Write {
        offset: usize,
        data: Vec<u8>,
    },
    SetLen(usize),
    Sync,
    /// A call begins.
    Begun,
    /// The call that began has returned.
    Acknowledged,
}

/// A recording of the events of a file, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Vec<Event>>>);

impl Log {
    pub(super) fn push(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(super) fn take(&self) -> Vec<Event> {
        mem::take(&mut self.0.lock().unwrap())
    }

    /// Returns a storage hook that records the changes of the file.
    pub(super) fn hook(
        &self,
    ) -> impl Fn(StorageCall<'_>) -> io::Result<()> + Send + Sync + 'static {
        let log = self.clone();
        move |call| {
            match call {
                StorageCall::Write { offset, data } => log.push(Event::Write {
                    offset: usize::try_from(offset).unwrap(),
                    data: data.to_vec(),
                }),
                StorageCall::SetLen { len } => {
                    log.push(Event::SetLen(usize::try_from(len).unwrap()));
                }
                StorageCall::Sync => log.push(Event::Sync),
                _ => {}
            }
            Ok(())
        }
    }
}

/// The disk during a recording: just before one of its events.
pub(super) struct Disk<'a> {
    events: &'a [Event],
    durable: Vec<u8>,
    /// The events since the last sync.
    unsynced: Range<usize>,
    begun: usize,
    acknowledged: usize,
}

/// A part of an event that reached the disk.
#[derive(Clone, Debug, Hash)]
struct Piece {
    event: usize,
    bytes: Range<usize>,
}

/// The part of the unsynced writes that reached the disk.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Nothing,
    Everything,
    /// The first writes, the last of these torn.
    First,
    /// Any subset of the writes.
    Some,
    AllButOne,
    OneAlone,
    /// Any sectors of this size of each write.
    Sectors(usize),
    /// The beginning of each write.
    Torn,
}

const FATES: [Fate; 8] = [
    Fate::First,
    Fate::First,
    Fate::Some,
    Fate::AllButOne,
    Fate::OneAlone,
    Fate::Sectors(4096),
    Fate::Sectors(512),
    Fate::Torn,
];

/// The place of a crash in a recording, and the fate of the unsynced writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    before: usize,
    fate: Fate,
}

/// Crashes in the order of a recording: two at every sync, the rest anywhere between.
pub(super) fn crashes(events: &[Event], count: usize, dice: &mut Dice) -> Vec<Crash> {
    let mut is_unsynced = false;
    let mut during = Vec::new();
    let mut crashes = Vec::new();
    for (before, event) in events.iter().enumerate() {
        if is_unsynced {
            during.push(before);
        }
        match event {
            Event::Write { .. } | Event::SetLen(_) => is_unsynced = true,
            Event::Sync => {
                let fates = [Fate::Nothing, Fate::Everything];
                crashes.extend(fates.map(|fate| Crash { before, fate }));
                is_unsynced = false;
            }
            Event::Begun | Event::Acknowledged => {}
        }
    }
    while !during.is_empty() && crashes.len() < count {
        crashes.push(Crash {
            before: *pick(&during, dice),
            fate: *pick(&FATES, dice),
        });
    }
    while crashes.len() > count {
        crashes.swap_remove(below(crashes.len(), dice));
    }
    crashes.sort_by_key(|crash| crash.before);
    crashes
}

impl<'a> Disk<'a> {
    /// Returns a disk with the file, before the first of these events.
    pub(super) fn new(file: &[u8], events: &'a [Event]) -> Self {
        Self {
            events,
            durable: file.to_vec(),
            unsynced: 0..0,
            begun: 0,
            acknowledged: 0,
        }
    }

    /// Returns the image of the disk after this crash, which comes later than all earlier ones.
    /// Returns none if an earlier crash left the same image.
    pub(super) fn image_after(
        &mut self,
        crash: Crash,
        seen: &mut HashSet<u64>,
        dice: &mut Dice,
    ) -> Option<Vec<u8>> {
        while self.unsynced.end < crash.before {
            self.step();
        }
        let pieces = self.pieces(crash.fate, dice);
        let is_length = |&event: &usize| matches!(self.events[event], Event::SetLen(_));
        let kept = pieces.iter().map(|piece| piece.event).filter(is_length);
        let is_a_length_lost = kept.count() < self.changes().into_iter().filter(is_length).count();
        // A write past the end of a file that is not longer makes it so, or is lost.
        let may_extend = !is_a_length_lost || dice.below(2) == 0;
        let mut hasher = DefaultHasher::new();
        let calls = (self.acknowledged, self.begun);
        (self.unsynced.start, calls, &pieces, may_extend).hash(&mut hasher);
        if !seen.insert(hasher.finish()) {
            return None;
        }
        let mut image = self.durable.clone();
        for piece in &pieces {
            apply(
                &mut image,
                &self.events[piece.event],
                &piece.bytes,
                may_extend,
            );
        }
        Some(image)
    }

    /// Returns the image of the disk at the end, if all was synced.
    pub(super) fn in_the_end(mut self) -> Option<Vec<u8>> {
        while self.unsynced.end < self.events.len() {
            self.step();
        }
        self.changes().is_empty().then_some(self.durable)
    }

    /// Returns the calls whose states the disk may hold: the last acknowledged to the last begun.
    pub(super) fn calls(&self) -> RangeInclusive<usize> {
        self.acknowledged..=self.begun
    }

    fn step(&mut self) {
        let event = self.unsynced.end;
        self.unsynced.end += 1;
        match self.events[event] {
            Event::Begun => self.begun += 1,
            Event::Acknowledged => self.acknowledged = self.begun,
            Event::Write { .. } | Event::SetLen(_) => {}
            Event::Sync => {
                for event in &self.events[self.unsynced.clone()] {
                    apply(&mut self.durable, event, &(0..usize::MAX), true);
                }
                self.unsynced.start = self.unsynced.end;
            }
        }
    }

    /// Returns the changes since the last sync.
    fn changes(&self) -> Vec<usize> {
        let is_change =
            |&event: &usize| matches!(self.events[event], Event::Write { .. } | Event::SetLen(_));
        self.unsynced.clone().filter(is_change).collect()
    }

    fn pieces(&self, fate: Fate, dice: &mut Dice) -> Vec<Piece> {
        let changes = self.changes();
        let mut pieces = Vec::new();
        let chosen = below(changes.len().max(1), dice);
        for (place, &event) in changes.iter().enumerate() {
            let (offset, len) = match &self.events[event] {
                Event::Write { offset, data } => (*offset, data.len()),
                _ => (0, 0),
            };
            let mut keep = |bytes: Range<usize>| {
                if len == 0 || !bytes.is_empty() {
                    pieces.push(Piece { event, bytes });
                }
            };
            match fate {
                Fate::Nothing => {}
                Fate::Everything => keep(0..len),
                Fate::First if place < chosen => keep(0..len),
                Fate::First if place == chosen => keep(0..below(len + 1, dice)),
                Fate::First => {}
                Fate::AllButOne if place == chosen => {}
                Fate::AllButOne => keep(0..len),
                Fate::OneAlone if place == chosen => keep(0..len),
                Fate::OneAlone => {}
                Fate::Sectors(size) if len > 0 => {
                    let mut from = 0;
                    while from < len {
                        let to = (from + size - (offset + from) % size).min(len);
                        if dice.below(2) == 0 {
                            keep(from..to);
                        }
                        from = to;
                    }
                }
                Fate::Torn if len > 0 => keep(0..below(len + 1, dice)),
                Fate::Some | Fate::Sectors(_) | Fate::Torn => {
                    if dice.below(2) == 0 {
                        keep(0..len);
                    }
                }
            }
        }
        let is_in_order = matches!(fate, Fate::Everything | Fate::First);
        if !is_in_order && dice.below(4) == 0 {
            let is_length = |piece: &Piece| matches!(self.events[piece.event], Event::SetLen(_));
            pieces
                .split_mut(is_length)
                .for_each(|run| shuffle(run, dice));
        }
        pieces
    }
}

/// Applies a part of a change to a file.
fn apply(file: &mut Vec<u8>, event: &Event, bytes: &Range<usize>, may_extend: bool) {
    match event {
        Event::Write { offset, data } => {
            let data = &data[bytes.start..bytes.end.min(data.len())];
            let from = offset + bytes.start;
            if from + data.len() > file.len() && may_extend {
                file.resize(from + data.len(), 0);
            }
            let there = data.len().min(file.len().saturating_sub(from));
            if there > 0 {
                file[from..from + there].copy_from_slice(&data[..there]);
            }
        }
        Event::SetLen(len) => file.resize(*len, 0),
        Event::Sync | Event::Begun | Event::Acknowledged => {}
    }
}

fn shuffle<T>(items: &mut [T], dice: &mut Dice) {
    for place in 1..items.len() {
        items.swap(place, below(place + 1, dice));
    }
}

pub(super) fn pick<'a, T>(items: &'a [T], dice: &mut Dice) -> &'a T {
    &items[below(items.len(), dice)]
}

pub(super) fn below(bound: usize, dice: &mut Dice) -> usize {
    dice.below(bound as u64) as usize
}
