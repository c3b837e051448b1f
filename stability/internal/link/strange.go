package link

import "go.mau.fi/whatsmeow/socket"

// A Link knows the form in which the server's hello comes. In another form an
// attempt fails though the server answers: the hello is held back for ever, or
// handed over in part. The next attempt is then a trial that lets everything
// pass. If the trial gets further, and the hello was indeed of another form, all
// later attempts do the same.
const (
	framesKnown   = iota // as far as was seen
	framesTried          // the next attempt, or the present one, is a trial
	framesUnknown        // the trial has shown it
)

const (
	strangeExtension = "the server chose a websocket extension that is not known here: an attempt that fails may take 20 s longer"
	strangeHello     = "the server's hello comes in a form that is not known here: an attempt that fails may take 20 s longer"
	// strangeFrames is about frames behind the hello. They are passed on as ever.
	strangeFrames = "a websocket frame came that is not known here: who closed the connection is told less exactly"
)

// helloShort and helloLong make a Link misread the length of the hello, as if
// its form had changed. Tests use them.
const (
	helloShort Reliance = "hello_short"
	helloLong  Reliance = "hello_long"
)

// helloSize is how long the hello at the beginning of data is, its length
// included; false while it is not all there.
func (l *Link) helloSize(data []byte) (size int, whole bool) {
	width := socket.FrameLengthSize
	switch {
	case l.cfg.without(helloShort):
		width--
	case l.cfg.without(helloLong):
		width++
	}
	if len(data) < width {
		return 0, false
	}
	for _, b := range data[:width] {
		size = size<<8 | int(b)
	}
	size += width
	return size, len(data) >= size
}

// whyBlind is what it means that a connection passes everything from its start;
// empty in a trial, which shows first whether it was needed.
func (b *body) whyBlind() string {
	switch {
	case b.rsv == b.chose || b.c.l.cfg.without(Frames):
		return strangeExtension
	case b.c.l.frames.Load() == framesUnknown:
		return strangeHello
	}
	return ""
}

// suspectFrames makes the next attempt a trial.
func (l *Link) suspectFrames() { l.frames.CompareAndSwap(framesKnown, framesTried) }

// keepTrial keeps what the read pump gets in a trial.
func (b *body) keepTrial(p []byte) {
	if b.c.l.frames.Load() != framesTried || b.rsv == b.chose || b.finishing.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.trial) < maxHello {
		b.trial = append(b.trial, p...)
	}
}

// endTrial draws the conclusion of a trial: on says that whatsmeow took what
// came for a hello.
func (b *body) endTrial(on bool) {
	l := b.c.l
	if l.frames.Load() != framesTried || b.rsv == b.chose {
		return
	}
	b.mu.Lock()
	again := &body{c: b.c, rsv: b.chose, in: b.trial}
	b.mu.Unlock()
	if on {
		whole, err := again.parse()
		for whole && err == nil && again.phase == phaseHello { // a ping, or a text
			whole, err = again.parse()
		}
		if err != nil || !whole || again.phase != phaseHold || len(again.held) > 0 {
			l.frames.Store(framesUnknown)
			l.report(Frames, strangeHello)
			return
		}
	}
	l.frames.Store(framesKnown) // it was the network
}
