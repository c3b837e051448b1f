package guard

// Queued is how many incidents wait for their delivery.
func (w *Webhook) Queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue)
}

// Described is an incident of type t as the guard fills it in.
func Described(t Type, f Facts) Incident {
	inc := Incident{ID: t.ActiveID(), Type: t}
	(&guard{}).describe(&inc, &f)
	return inc
}
