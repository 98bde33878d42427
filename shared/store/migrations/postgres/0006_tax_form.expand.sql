-- Whether the tax ids that an event gives have right check digits: valid, invalid or unchecked;
-- empty where it gives none.

ALTER TABLE events ADD COLUMN tax_form TEXT COLLATE "C" NOT NULL DEFAULT '';
