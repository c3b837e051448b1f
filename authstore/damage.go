package authstore

import (
	"maps"
	"slices"
)

// damage is the damaged rows that were found and that no commit has taken away yet, and
// the looks that find them. deviceStore.mu guards it.
//
// A damaged row stands where it was found until a commit writes over it or removes it,
// and that commit keeps its bytes aside. A row that is written while a look is under way
// is not what the look has read of it, so the look must not set it aside.
type damage struct {
	asides map[Key][]Entry  // where they stand, and as what they are kept
	stuck  map[Key]struct{} // of these: refused for good, so they ride no more

	// A commit leaves these behind: they are not kept when they are written over.
	leaveStuck bool

	looks   map[*tableLook]struct{} // those that are under way
	landing []write                 // the batch that is being committed
}

func newDamage() damage {
	return damage{asides: make(map[Key][]Entry), stuck: make(map[Key]struct{}), looks: make(map[*tableLook]struct{})}
}

// tableLook is a look at rows which takes a while. Rows that are written
// meanwhile are no longer as it has read them.
type tableLook struct {
	written map[Key]struct{} // under deviceStore.mu
}

func (d *damage) beginLook() *tableLook {
	l := &tableLook{make(map[Key]struct{})}
	d.looks[l] = struct{}{}
	return l
}

func (d *damage) endLook(l *tableLook) { delete(d.looks, l) }

// committing notes the batch that is about to be committed, until committed is called.
func (d *damage) committing(ws []write) { d.landing = ws }

// committed notes the end of that commit. A row that landed has taken the place of a
// damaged one, and a look has not read it.
func (d *damage) committed(landed bool) {
	ws := d.landing
	d.landing = nil
	if !landed {
		return
	}
	for l := range d.looks {
		for _, w := range ws {
			l.written[w.entry.Key] = struct{}{}
		}
	}
	for _, w := range ws {
		if !w.del { // a look may have set the damaged row aside between the rendering of this one and now
			delete(d.asides, w.entry.Key)
			delete(d.stuck, w.entry.Key)
		}
	}
}

// overtaken reports whether key was written since by began, or is being written.
// Without a look nothing is.
func (d *damage) overtaken(by *tableLook, key Key) bool {
	if by == nil {
		return false
	}
	_, written := by.written[key]
	return written || slices.ContainsFunc(d.landing, func(w write) bool { return w.entry.Key == key })
}

// none reports whether no damaged row waits to be set aside.
func (d *damage) none() bool { return len(d.asides) == 0 }

// at reports whether a damaged row stands at key, and is on its way out.
func (d *damage) at(key Key) bool {
	_, ok := d.asides[key]
	return ok
}

// setAside notes a damaged row. The next commit keeps it as kept.
func (d *damage) setAside(key Key, kept []Entry) {
	d.asides[key] = kept
	delete(d.stuck, key)
}

// refuse puts back a row that takeFree gave and that the KV has refused to keep. It
// rides no more.
func (d *damage) refuse(key Key, kept []Entry) {
	d.asides[key], d.stuck[key] = kept, struct{}{}
}

// takeFree takes the damaged rows that ride.
func (d *damage) takeFree() map[Key][]Entry {
	free := make(map[Key][]Entry)
	for key, kept := range d.asides {
		if _, ok := d.stuck[key]; !ok {
			free[key] = kept
			delete(d.asides, key)
		}
	}
	return free
}

// takeUnder gives what must be kept of the damaged rows that stand where a row is about
// to be written, at one of keys. It notes them in taken, for putBack.
func (d *damage) takeUnder(keys []Key, taken map[Key][]Entry) (kept []Entry) {
	for _, key := range keys {
		if e, ok := d.asides[key]; ok {
			taken[key] = e
			if _, stuck := d.stuck[key]; !stuck || !d.leaveStuck {
				kept = append(kept, e...)
			}
			delete(d.asides, key)
		}
	}
	return kept
}

// putBack is for the rows of a commit that was refused and that nothing was written over.
func (d *damage) putBack(taken map[Key][]Entry) { maps.Copy(d.asides, taken) }

// beginLeaving lets the next commits leave behind what is stuck and stands where they
// write, until endLeaving is called; false: nothing is stuck, so they need not.
func (d *damage) beginLeaving() bool {
	maps.DeleteFunc(d.stuck, func(key Key, _ struct{}) bool { return !d.at(key) }) // written over
	d.leaveStuck = len(d.stuck) > 0
	return d.leaveStuck
}

func (d *damage) endLeaving() { d.leaveStuck = false }
