//! Opens the images that crashes leave, and compares them with the promises of the calls.

use super::disk::{Disk, Event, Log, crashes};
use super::script::{Move, Recording, State, View};
use crate::holding_support::{Dice, secs};
use crate::support::{Home, noon};
use lockmgr::{Builder, GetOptions, LockManager, ManualClock, StorageCall};
use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::io;
use std::ops::AddAssign;

/// One in so many images is opened by a repair that is recorded, and that crashes too.
const REPAIRS: u64 = 16;
/// The images of a crash during a repair.
const IMAGES_OF_A_REPAIR: usize = 8;

/// Counts of the images that were tried.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) images: usize,
    /// The images among them that were left by crashes during a repair, or soon after.
    pub(super) repairs: usize,
    pub(super) calls: usize,
    pub(super) syncs: usize,
    /// The numbers of times that the file grew, and shrank.
    pub(super) growths: usize,
    pub(super) shrinkages: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.images += other.images;
        self.repairs += other.repairs;
        self.calls += other.calls;
        self.syncs += other.syncs;
        self.growths += other.growths;
        self.shrinkages += other.shrinkages;
    }
}

impl Recording {
    /// Counts the events of a run.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally {
            calls: self.states.len() - 1,
            ..Tally::default()
        };
        let mut length = self.file.len();
        for event in &self.events {
            match event {
                Event::Sync => tally.syncs += 1,
                Event::SetLen(len) => {
                    tally.growths += usize::from(*len > length);
                    tally.shrinkages += usize::from(*len < length);
                    length = *len;
                }
                Event::Write { .. } | Event::Begun | Event::Acknowledged => {}
            }
        }
        tally
    }
}

/// Opens about so many images of crashes in the middle of this run. Each image must hold the state
/// after a prefix of its calls that includes every call acknowledged by then. Otherwise the error
/// names the image.
pub(super) fn check(recording: &Recording, count: usize, dice: &mut Dice) -> Result<Tally, String> {
    let home = Home::in_memory();
    let mut tally = recording.tally();
    let mut seen = HashSet::new();
    let mut disk = Disk::new(&recording.file, &recording.events);
    for crash in crashes(&recording.events, count, dice) {
        let Some(image) = disk.image_after(crash, &mut seen, dice) else {
            continue;
        };
        tally.images += 1;
        let number = tally.images;
        let explain = |why: Box<dyn Error>| {
            format!(
                "image {number} ({crash:?}, calls {:?}): {why:?}",
                disk.calls()
            )
        };
        let states = &recording.states[disk.calls()];
        let reopened = Reopened::from(&home, &image, states, recording, dice).map_err(explain)?;
        if dice.below(REPAIRS) == 0
            && let Some(repair) = reopened.recording(image, states, recording)
        {
            let of_repair = check_repair(&home, &repair, dice).map_err(explain)?;
            tally.images += of_repair;
            tally.repairs += of_repair;
        }
    }
    Ok(tally)
}

fn check_repair(home: &Home, repair: &Recording, dice: &mut Dice) -> Result<usize, Box<dyn Error>> {
    let mut seen = HashSet::new();
    let mut disk = Disk::new(&repair.file, &repair.events);
    for crash in crashes(&repair.events, IMAGES_OF_A_REPAIR, dice) {
        if let Some(image) = disk.image_after(crash, &mut seen, dice) {
            let states = &repair.states[disk.calls()];
            Reopened::from(home, &image, states, repair, dice).map_err(|why| {
                format!("{crash:?} of its repair, calls {:?}: {why:?}", disk.calls())
            })?;
        }
    }
    Ok(seen.len())
}

/// An image, opened, written to, closed and opened again.
struct Reopened {
    /// The state that the image held.
    found: usize,
    /// The state in which the image was left.
    left: State,
    events: Vec<Event>,
}

impl Reopened {
    fn from(
        home: &Home,
        image: &[u8],
        states: &[State],
        Recording { moves, .. }: &Recording,
        dice: &mut Dice,
    ) -> Result<Self, Box<dyn Error>> {
        fs::write(home.db(), image)?;
        let (log, clock) = (Log::default(), ManualClock::new(noon()));
        let builder = LockManager::builder().clock(clock.clone());
        let mut builder = builder.storage_hook(log.hook());
        let way = dice.below(8);
        if way < 2 {
            builder = builder.exclusive();
        }

        log.push(Event::Begun);
        let opener = match way {
            2 => builder.clone().read_only(),
            3 => refused_writes(builder.clone().read_only()),
            _ => builder.clone(),
        };
        let mut manager = opener.open(home.db())?;
        let found = find(&manager, states, moves, &clock)?;
        log.push(Event::Acknowledged);

        if way == 2 || way == 3 {
            manager = builder.clone().open(home.db())?;
            let view = View::of(&manager)?;
            if view != states[found].view {
                let difference = view.difference(&states[found].view);
                return Err(format!("opened by a writer, {difference}").into());
            }
        }
        log.push(Event::Begun);
        let options = GetOptions::new().timeout(secs(60));
        let probe = manager.get_lock(format!("probe {}", states[found].token), options)?;
        log.push(Event::Acknowledged);
        if probe.token() <= states[found].token {
            return Err(format!("the token {} is issued again", probe.token()).into());
        }
        let left = State {
            view: View::of(&manager)?,
            token: probe.token(),
            moves: states[found].moves,
        };
        drop(manager);
        let again = View::of(&builder.open(home.db())?)?;
        if again != left.view {
            let difference = again.difference(&left.view);
            return Err(format!("opened again, {difference}").into());
        }
        Ok(Self {
            found,
            left,
            events: log.take(),
        })
    }

    /// Returns this as a recording: opening is its first call, and writing its second. After the
    /// first call, no state that was seen may be lost. None if the clock tells the states apart.
    fn recording(
        self,
        file: Vec<u8>,
        states: &[State],
        Recording { moves, .. }: &Recording,
    ) -> Option<Recording> {
        let found = &states[self.found];
        let other = &states[states.len() - 1 - self.found];
        (found.moves == other.moves).then(|| Recording {
            file,
            events: self.events,
            states: vec![other.clone(), found.clone(), self.left],
            moves: moves.clone(),
        })
    }
}

/// Opens the image like a user without permission to write, so that redb repairs it in memory.
fn refused_writes(builder: Builder) -> Builder {
    builder.storage_hook(|call| match call {
        StorageCall::Write { .. } | StorageCall::SetLen { .. } => {
            Err(io::ErrorKind::PermissionDenied.into())
        }
        _ => Ok(()),
    })
}

/// Finds which of these states the store holds, each as its clock shows it.
fn find(
    manager: &LockManager,
    states: &[State],
    moves: &[Move],
    clock: &ManualClock,
) -> Result<usize, Box<dyn Error>> {
    let mut moved = 0;
    let mut difference = String::new();
    for (place, state) in states.iter().enumerate() {
        moves[moved..state.moves]
            .iter()
            .for_each(|step| step.make(clock));
        moved = state.moves;
        let view = View::of(manager)?;
        if view == state.view {
            return Ok(place);
        }
        difference = view.difference(&state.view);
    }
    Err(difference.into())
}
