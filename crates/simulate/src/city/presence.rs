//! Who is where, right now.

use super::plan::CityPlan;

/// The people in each room, and how many are in each zone and on each floor.
#[derive(Debug)]
pub struct Presence {
    rooms: Vec<Vec<u32>>,
    zones: Vec<u32>,
    floors: Vec<u32>,
}

impl Presence {
    /// Nobody is anywhere.
    pub fn empty(plan: &CityPlan) -> Self {
        Self {
            rooms: vec![Vec::new(); plan.rooms.len()],
            zones: vec![0; plan.zones.len()],
            floors: vec![0; plan.floors.len()],
        }
    }

    /// The people in a room, in no particular (but always the same) order.
    pub fn people(&self, room: u32) -> &[u32] {
        &self.rooms[room as usize]
    }

    /// Whether one more person may enter a room.
    pub fn has_capacity(&self, plan: &CityPlan, room: u32) -> bool {
        self.people(room).len() < plan.rooms[room as usize].capacity as usize
    }

    /// How many people there are: on each floor, in each room, in each zone.
    pub fn counts(&self) -> impl Iterator<Item = u32> {
        let rooms = self.rooms.iter().map(|people| people.len() as u32);
        self.floors
            .iter()
            .copied()
            .chain(rooms)
            .chain(self.zones.iter().copied())
    }

    /// Someone enters a zone.
    pub fn enter(&mut self, plan: &CityPlan, person: u32, zone: u32) {
        let room = plan.zones[zone as usize].room;
        self.rooms[room as usize].push(person);
        self.zones[zone as usize] += 1;
        self.floors[plan.rooms[room as usize].floor as usize] += 1;
    }

    /// Someone leaves a zone.
    pub fn leave(&mut self, plan: &CityPlan, person: u32, zone: u32) {
        let room = plan.zones[zone as usize].room;
        let people = &mut self.rooms[room as usize];
        let place = people
            .iter()
            .position(|&other| other == person)
            .expect("who leaves has entered");
        people.swap_remove(place);
        self.zones[zone as usize] -= 1;
        self.floors[plan.rooms[room as usize].floor as usize] -= 1;
    }
}
