package authstore

// How many entries there are of each kind. Rows in memory are counted there.
// For rows that are read on demand the number is kept: a look at the table gives
// it, and each write and removal since changes it. It is stored twice a day and
// at the end of a term, so a crash costs what was counted since, until the next
// look.

// countedTables are those tables, in the order in which their sizes are stored.
var countedTables = [...]tableID{tSecret, tSenderKey, tOutgoing}

const sizesID = "sizes" // a single value

// sizesLocked is the change that stores the sizes; changed: they are not stored.
func (s *deviceStore) sizesLocked() (c change, changed bool) {
	var v []byte
	for _, t := range countedTables {
		n, known := s.upkeep.size(t)
		if !known {
			n = -1
		}
		v = append(v, fieldsOf(int64(n))...)
	}
	old, ok := s.im.get(tMisc, sizesID)
	return put(tMisc, sizesID, v), !same(old, ok, v)
}

// loadSizes takes over the stored numbers. A number that was not stored is unknown.
func (s *deviceStore) loadSizes() {
	v, _ := s.im.get(tMisc, sizesID)
	f := fields{b: v}
	for _, t := range countedTables {
		if n := f.varint(); f.err == nil && n >= 0 {
			s.upkeep.counted(t, int(n))
		}
	}
}

// countsLocked are how many entries there are of each kind, as far as is known.
func (s *deviceStore) countsLocked() map[Kind]int {
	out := make(map[Kind]int)
	for t := range numTables {
		sp := s.im.specs[t]
		if sp.lazy {
			continue
		}
		n := len(s.im.flat[t])
		for _, bucket := range s.im.packed[t] {
			n += len(bucket)
		}
		if n > 0 {
			out[sp.kind] = n
		}
	}
	if n := out["lid"]; n > 0 {
		out["lid"] = n / 2 // each stands there in both directions
	}
	for _, t := range countedTables {
		if n, known := s.upkeep.size(t); known {
			out[specOf(t).kind] = n
		}
	}
	return out
}
