package adminhttp

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"

	"rsc.io/qr"

	"github.com/wastability/wastability/keepalive"
)

// Drawings, as SVG that is part of the page. All that goes into them are numbers
// and words of ours.

// columns is how fine the band of a day is drawn: five minutes each.
const columns = 288

// band draws the day before now. A column shows the worst of its five minutes,
// so that a short outage is seen too. The heights differ, not only the colours.
func band(marks []mark, now time.Time) template.HTML {
	paths := map[condition]*strings.Builder{unknown: {}, on: {}, standby: {}, off: {}}
	cols := make([]condition, columns)
	begin := now.Add(-day)
	each := day / columns
	worst := map[condition]int{"": 0, on: 1, standby: 2, off: 3}
	for i, m := range marks {
		end := now
		if i+1 < len(marks) {
			end = marks[i+1].at
		}
		if !end.After(begin) {
			continue
		}
		from := max(0, int(m.at.Sub(begin)/each))
		to := min(columns-1, int(end.Sub(begin)/each))
		for c := from; c <= to; c++ {
			if worst[m.is] > worst[cols[c]] {
				cols[c] = m.is
			}
		}
	}
	top := map[condition]int{unknown: 19, on: 0, standby: 8, off: 14}
	for from := 0; from < columns; {
		to := from + 1
		for to < columns && cols[to] == cols[from] {
			to++
		}
		is := cols[from]
		if is == "" {
			is = unknown
		}
		fmt.Fprintf(paths[is], "M%d %dh%dV20h-%dz", from, top[is], to-from, to-from)
		from = to
	}
	var b strings.Builder
	b.WriteString(`<svg id="band" viewBox="0 0 288 20" preserveAspectRatio="none" role="img" aria-labelledby="band-text">`)
	for _, is := range []condition{unknown, on, standby, off} {
		if paths[is].Len() > 0 {
			b.WriteString(`<path class="` + string(is) + `" d="` + paths[is].String() + `"/>`)
		}
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}

// dayText says the same in words.
func dayText(marks []mark, since, now time.Time) string {
	begin := now.Add(-day)
	known := day
	if since.After(begin) {
		begin, known = since, now.Sub(since)
	}
	sum, outages, longest := map[condition]time.Duration{}, 0, time.Duration(0)
	for i, m := range marks {
		from, to := m.at, now
		if from.Before(begin) {
			from = begin
		}
		if i+1 < len(marks) {
			to = marks[i+1].at
		}
		if d := to.Sub(from); d > 0 {
			sum[m.is] += d
			if m.is == off {
				outages++
				longest = max(longest, d)
			}
		}
	}
	if known < time.Second {
		return "This program has only just begun to watch."
	}
	out := "During the last 24 hours"
	if known < day {
		out = "This program has watched for " + keepalive.Span(known) + ", since " + clock(begin) + ". During this time"
	}
	var parts []string
	for _, is := range []condition{on, standby, off} {
		if d := sum[is]; d > 0 {
			parts = append(parts, string(is)+" for "+keepalive.Span(d)+" ("+percent(d, known)+")")
		}
	}
	out += " it was " + strings.Join(parts, ", ") + "."
	switch {
	case outages == 1:
		out += " It was off once."
	case outages > 1:
		out += " It was off " + strconv.Itoa(outages) + " times, at most for " + keepalive.Span(longest) + "."
	}
	return out
}

// percent never rounds to all or to nothing.
func percent(d, of time.Duration) string {
	p := 100 * float64(d) / float64(of)
	switch {
	case d >= of:
		return "100 %"
	case p > 99.9:
		return "over 99.9 %"
	case p < 0.1:
		return "under 0.1 %"
	}
	return strconv.FormatFloat(p, 'f', 1, 64) + " %"
}

// qrSVG draws a code to scan: dark on light, with the margin that scanners need,
// whatever the colours of the page are.
func qrSVG(text string) (template.HTML, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("adminhttp: draw the code: %w", err)
	}
	const margin = 4
	n := code.Size + 2*margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg id="qr-code" viewBox="0 0 %d %d" role="img" aria-label="Code to scan with the phone" shape-rendering="crispEdges"><path class="paper" d="M0 0h%dv%dH0z"/><path class="ink" d="`, n, n, n, n)
	for y := range code.Size {
		for x := 0; x < code.Size; {
			if !code.Black(x, y) {
				x++
				continue
			}
			from := x
			for x < code.Size && code.Black(x, y) {
				x++
			}
			fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", from+margin, y+margin, x-from, x-from)
		}
	}
	b.WriteString(`"/></svg>`)
	return template.HTML(b.String()), nil
}
