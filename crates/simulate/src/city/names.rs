//! Names, in several scripts as in real organisations.

use super::plan::RoomUse;

pub const ORGANISATIONS: [&str; 6] = [
    "Harbour Works",
    "Nordlicht & Söhne",
    "Atelier Hélène",
    "Łódź Labs",
    "東雲設計",
    "Færø Shipping",
];

pub const SITES: [&str; 12] = [
    "Rotterdam",
    "Zürich",
    "São Paulo",
    "Kraków",
    "東京",
    "Malmö",
    "Lyon",
    "Göttingen",
    "Αθήνα",
    "Galway",
    "A Coruña",
    "Utrecht",
];

pub const BUILDINGS: [&str; 12] = [
    "Pier", "Haus", "Speicher", "Nordtor", "Villa Ø", "Maison", "Kontor", "Mill", "Torre", "別館",
    "Atrium", "Werft",
];

/// Name of the `nth` room on a floor.
pub fn room_name(room_use: RoomUse, pick: u32, level: u32, nth: u32) -> String {
    let pick = pick as usize;
    match room_use {
        RoomUse::Office => format!("{} {level}.{nth:02}", OFFICES[pick % OFFICES.len()]),
        RoomUse::Booth => format!("{} {level}.{nth:02}", BOOTHS[pick % BOOTHS.len()]),
        RoomUse::Restroom => format!("WC {level}.{nth:02}"),
        RoomUse::Meeting => MEETINGS[pick % MEETINGS.len()].to_owned(),
        RoomUse::Kitchen => KITCHENS[pick % KITCHENS.len()].to_owned(),
        RoomUse::Lounge => LOUNGES[pick % LOUNGES.len()].to_owned(),
    }
}

/// Name of a zone, without its letter.
pub fn zone_name(room_use: RoomUse) -> &'static str {
    match room_use {
        RoomUse::Office => "Desks",
        RoomUse::Meeting => "Table",
        RoomUse::Kitchen => "Counter",
        RoomUse::Restroom => "Stalls",
        RoomUse::Lounge => "Sofas",
        RoomUse::Booth => "Seat",
    }
}

const OFFICES: [&str; 5] = ["Office", "Büro", "Open Space", "Bureau", "Studio"];
const BOOTHS: [&str; 3] = ["Phone Booth", "Zelle", "Cabine"];
const MEETINGS: [&str; 12] = [
    "Quay Room",
    "Besprechung Süd",
    "会議室 桜",
    "Salle Curie",
    "Sala Verdi",
    "Føniks",
    "Aquarium",
    "Noether",
    "Ångström",
    "Plaça Nova",
    "회의실",
    "The \"Bridge\"",
];
const KITCHENS: [&str; 4] = ["Café", "Teeküche", "Kitchenette", "Cuisine"];
const LOUNGES: [&str; 4] = ["Lounge", "Winter Garden", "Kaminzimmer", "Salón"];
