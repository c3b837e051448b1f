package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/wastability/wastability/authstore"
)

// printer shows how far a move is: on a terminal in one line that is written
// again and again, elsewhere in a line every ten seconds.
type printer struct {
	out         io.Writer
	live        bool // out is a terminal
	pause       time.Duration
	began, last time.Time

	table, before, rows int // rows: done in all; before: of them in earlier tables
	phase               string
}

// linePause is the time between two lines where out is no terminal.
var linePause = 10 * time.Second

func newPrinter(out io.Writer) *printer {
	p := &printer{out: out, pause: linePause, began: time.Now(), last: time.Now()}
	if f, ok := out.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		p.live = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

func (p *printer) show(g authstore.Progress) {
	if p.table != g.Table || p.phase != g.Phase {
		if p.phase != g.Phase {
			p.rows = 0
		}
		p.before, p.table, p.phase = p.rows, g.Table, g.Phase
	}
	p.rows = p.before + g.Done
	p.line(g.Table == g.Tables && g.Done == g.Total, "%-6s  table %d of %d (%s, %d of %d rows); %d rows, %d bytes written, %.0f rows/s",
		g.Phase, g.Table, g.Tables, g.Kind, g.Done, g.Total, p.rows, g.Bytes, p.speed())
}

// resealed shows how many rows are sealed as they should be.
func (p *printer) resealed(done, total int) {
	p.rows = done
	p.line(done == total, "reseal  %d of %d rows, %.0f rows/s", done, total, p.speed())
}

func (p *printer) speed() float64 {
	return float64(p.rows) / max(time.Since(p.began).Seconds(), 0.001)
}

// line prints what it is given, unless the one before was just printed.
func (p *printer) line(last bool, format string, args ...any) {
	pause := p.pause
	if p.live {
		pause = 100 * time.Millisecond
	}
	if !last && time.Since(p.last) < pause {
		return
	}
	p.last = time.Now()
	line := fmt.Sprintf(format, args...)
	switch {
	case p.live && !last:
		fmt.Fprint(p.out, "\r\x1b[K"+line)
	case p.live:
		fmt.Fprintln(p.out, "\r\x1b[K"+line)
	default:
		fmt.Fprintln(p.out, line)
	}
}

func (p *printer) summary(r authstore.Report) {
	fmt.Fprintf(p.out, "\ndevice %s from %s:\n", r.JID, r.From)
	kinds := slices.SortedFunc(maps.Keys(r.Entries), func(a, b authstore.Kind) int { return cmp.Compare(a, b) })
	for _, k := range kinds {
		fmt.Fprintf(p.out, "  %-10s  %d\n", k, r.Entries[k])
	}
	for _, w := range r.Warnings {
		fmt.Fprintln(p.out, "note:", w)
	}
	if r.DryRun {
		fmt.Fprintf(p.out, "dry run: %d rows would be written; nothing was\n", r.Rows)
		return
	}
	if r.Resumed {
		fmt.Fprintf(p.out, "went on with an unfinished import: %d rows stood there already\n", r.Kept)
	}
	fmt.Fprintf(p.out, "%d rows written, %d bytes; %d rows read back and equal to the source; %s\n",
		r.Written, r.Bytes, r.Verified, r.Took.Round(time.Millisecond))
}
