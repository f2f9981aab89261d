//! Current positions of all people.

use super::plan::CityPlan;

/// The plan together with the current positions.
#[derive(Clone, Copy)]
pub struct CityScene<'a> {
    pub plan: &'a CityPlan,
    pub presence: &'a Presence,
}

impl CityScene<'_> {
    /// Returns `true` if one more person may enter a room.
    pub fn has_capacity(self, room: u32) -> bool {
        self.presence.people(room).len() < self.plan.rooms[room as usize].capacity as usize
    }
}

/// The people in each room, and the number of people in each zone and on each floor.
#[derive(Debug)]
pub struct Presence {
    rooms: Vec<Vec<u32>>,
    zones: Vec<u32>,
    floors: Vec<u32>,
}

impl Presence {
    /// An empty city.
    pub fn empty(plan: &CityPlan) -> Self {
        Self {
            rooms: vec![Vec::new(); plan.rooms.len()],
            zones: vec![0; plan.zones.len()],
            floors: vec![0; plan.floors.len()],
        }
    }

    /// The people in a room, in an arbitrary but reproducible order.
    pub fn people(&self, room: u32) -> &[u32] {
        &self.rooms[room as usize]
    }

    /// Number of people on each floor, then in each room, then in each zone.
    pub fn counts(&self) -> impl Iterator<Item = u32> {
        let rooms = self.rooms.iter().map(|people| people.len() as u32);
        self.floors
            .iter()
            .copied()
            .chain(rooms)
            .chain(self.zones.iter().copied())
    }

    pub fn enter(&mut self, plan: &CityPlan, person: u32, zone: u32) {
        let room = plan.zones[zone as usize].room;
        self.rooms[room as usize].push(person);
        self.zones[zone as usize] += 1;
        self.floors[plan.rooms[room as usize].floor as usize] += 1;
    }

    pub fn leave(&mut self, plan: &CityPlan, person: u32, zone: u32) {
        let room = plan.zones[zone as usize].room;
        let people = &mut self.rooms[room as usize];
        let index = people
            .iter()
            .position(|&other| other == person)
            .expect("a person who leaves a room has entered it");
        people.swap_remove(index);
        self.zones[zone as usize] -= 1;
        self.floors[plan.rooms[room as usize].floor as usize] -= 1;
    }
}
