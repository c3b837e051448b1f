package course

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/internal/book"
)

var up = Sight{Admits: true, Hears: true}

// Each step counts for more than all before it, and they happen one after the other.
func TestWorstThatHappensDecides(t *testing.T) {
	handed := func(c *Course) { c.Begin(false); c.Tell(); c.Give() }
	type step struct {
		rule  string
		do    func(*Course)
		sight Sight
		is    book.Outcome
		why   string
		keep  Keep
	}
	withContent, away := up, up
	withContent.Content, away.Admits = true, false
	ofPhone := withContent
	ofPhone.OfPhone = true
	nothing, visited := func(*Course) {}, make(map[string]bool)
	for origin, steps := range map[Origin][]step{
		Encrypted: {
			{"unknown", nothing, up, book.Odd, whyUnknown, AsIs},
			{"an old counter", (*Course).OldCounter, up, book.Odd, whyOld, AsIs},
			{"finished before", func(c *Course) { c.Begin(true) }, up, book.Repeat, "", AsIs},
			{"not begun before the end", nothing, away, book.Left, "", AsIs},
			{"taken", func(c *Course) { handed(c); c.Finish() }, away, book.Handled, "", AsIs},
			{"not finished", handed, away, book.Declined, WhyRefused, Parts},
			{"unreadable", func(c *Course) { c.Unreadable("no key", false) }, away, book.Lost, "no key", AsIs},
			{"panicked, and there is no content", func(c *Course) { c.Panicked("panic") }, away, book.Odd, "panic" + notKept, OpenPart},
			{"panicked", nothing, withContent, book.Saved, "panic", OpenPart},
			{"panicked, and could not be kept", (*Course).Unsaved, withContent, book.Declined, "panic", OpenPart},
			{"refused", (*Course).Refused, withContent, book.Declined, WhyRefused, Parts},
			{"refused and acknowledged", nothing, ofPhone, book.Saved, WhyRefused, Parts},
			{"unheard", (*Course).Unheard, withContent, book.Declined, WhyUnheard, Parts},
			{"unheard and acknowledged", nothing, ofPhone, book.Saved, WhyUnheard, Parts},
			{"dealt with before", (*Course).FoundBefore, ofPhone, book.Repeat, "", AsIs},
			{"dealt with before", (*Course).SetAside, ofPhone, book.Repeat, "", AsIs},
			{"dealt with before", (*Course).Judge, ofPhone, book.Repeat, "", AsIs},
			{"a part is left at the service", (*Course).Leave, ofPhone, book.Left, "", AsIs},
		},
		Newsletter: {
			{"taken", func(c *Course) { c.Tell(); c.Give() }, Sight{Admits: true}, book.Handled, "", AsIs},
			{"unanswered", nothing, up, book.Declined, WhyRefused, Parts},
			{"unanswered behind the end", nothing, away, book.Left, "", AsIs},
			{"refused", (*Course).Refused, away, book.Declined, WhyRefused, Parts},
		},
		Early: {
			{"taken", func(c *Course) { c.Tell(); c.Give() }, up, book.Handled, "", AsIs},
			{"refused", (*Course).Refused, up, book.Declined, WhyRefused, Parts},
			{"refused and acknowledged", nothing, withContent, book.Saved, WhyRefused, Parts},
			{"unheard and acknowledged", (*Course).Unheard, withContent, book.Saved, WhyUnheard, Parts},
		},
		Store: {
			{"kept, and taken", func(c *Course) { c.BeginStored(); c.Tell(); c.Give() }, up, book.Handled, "", AsIs},
			{"kept, and a part stays", func(c *Course) { c.RefusedNow(); c.Untaken(true) }, withContent, book.Saved, WhyRefused, AsIs},
			{"kept, and refused too often", (*Course).Condemn, withContent, book.Poison, WhyPoison, AsIs},
			{"a part is left at the service", (*Course).Leave, withContent, book.Left, "", AsIs},
		},
	} {
		c := Course{Origin: origin}
		for _, s := range steps {
			s.do(&c)
			o, why := c.Outcome(s.sight)
			at := fmt.Sprintf("origin %d: %s", origin, s.rule)
			require.Equal(t, s.rule, c.rule(s.sight).name, at)
			require.Equal(t, s.is, o, at)
			require.Equal(t, s.why, why, at)
			require.Equal(t, s.keep, c.Keeps(s.sight), at)
			visited[s.rule] = true
		}
	}
	for _, r := range rules {
		require.True(t, visited[r.name], r.name)
	}
}

// every is each state that a Course may have, and each that is seen at its end.
func every(do func(Course, Sight)) {
	flags := []bool{false, true}
	for n := range int(Store+1) * int(Threw+1) * int(left+1) * int(hopeless+1) * int(unreadable+1) * int(unsaved+1) {
		c := Course{panic: "panic", unread: "unread", untaken: "untaken"}
		pick := func(of int) (i int) { i, n = n%of, n/of; return i }
		c.Origin, c.part, c.verdict = Origin(pick(int(Store+1))), Part(pick(int(Threw+1))), verdict(pick(int(left+1)))
		c.bar, c.reading, c.rescue = bar(pick(int(hopeless+1))), reading(pick(int(unreadable+1))), rescue(pick(int(unsaved+1)))
		for _, c.buffered = range flags {
			for _, c.acked = range flags {
				for i := range 16 {
					do(c, Sight{i&1 != 0, i&2 != 0, i&4 != 0, i&8 != 0})
				}
			}
		}
	}
}

func TestWhateverHappensNoMessageIsLost(t *testing.T) {
	every(func(c Course, s Sight) {
		o, why := c.Outcome(s)
		bare := s
		bare.Content = false
		if c.Keeps(s) != c.Keeps(bare) {
			t.Fatalf("%+v, %+v: what is kept depends on what is kept", c, s)
		}
		done := o == book.Handled || o == book.Repeat
		if done && c.Origin != Store && c.bar == none && c.verdict > taken {
			t.Fatalf("%+v, %+v: handlers did not take it, and it counts as done with", c, s)
		}
		if done && c.Origin == Store && s.Content {
			t.Fatalf("%+v, %+v: a part of it stays, and it counts as done with", c, s)
		}
		if o == book.Saved && !s.Content {
			t.Fatalf("%+v, %+v: it is kept, and nothing of it is", c, s)
		}
		if o == book.Saved && c.verdict == refused && c.Origin == Encrypted && !s.OfPhone {
			t.Fatalf("%+v, %+v: it is handed over from here, and by the service", c, s)
		}
		if told := o == book.Left || done; told != (why == "") {
			t.Fatalf("%+v, %+v: %d says %q", c, s, o, why)
		}
	})
}

// A row that makes no difference is none.
func TestEachRuleMakesADifference(t *testing.T) {
	all := rules
	defer func() { rules = all }()
	for i, r := range all[:len(all)-1] {
		differs := false
		every(func(c Course, s Sight) {
			if differs || c.rule(s).name != r.name {
				return
			}
			with, why := c.Outcome(s)
			rules = slices.Concat(all[:i:i], all[i+1:])
			without, other := c.Outcome(s)
			rules = all
			differs = with != without || why != other
		})
		require.True(t, differs, r.name)
	}
}

func TestPartGoesThroughItsPhases(t *testing.T) {
	begin := func(c *Course) { c.Begin(false) }
	give := func(c *Course) { c.Give() }
	finish := func(c *Course) { c.Finish() }
	throw := func(c *Course) { c.Panicked("panic") }
	all := []Part{Untold, Spoilt, Withheld, Open, Threw}
	for name, e := range map[string]struct {
		do   func(*Course)
		to   []Part // from each of all
		says []verdict
	}{
		"begin":  {begin, []Part{Untold, Untold, Untold, Untold, Untold}, []verdict{silent, silent, silent, taken, silent}},
		"tell":   {tell, []Part{Withheld, Withheld, Withheld, Withheld, Withheld}, []verdict{silent, silent, silent, silent, silent}},
		"give":   {give, []Part{Open, Open, Open, Open, Open}, []verdict{silent, silent, silent, silent, silent}},
		"throw":  {throw, []Part{Spoilt, Spoilt, Withheld, Threw, Threw}, []verdict{panicked, panicked, panicked, panicked, panicked}},
		"finish": {finish, []Part{Untold, Untold, Untold, Untold, Untold}, []verdict{silent, silent, silent, taken, silent}},
		"refuse": {func(c *Course) { c.RefusedNow() }, all, []verdict{refused, refused, silent, refused, refused}},
	} {
		for i, from := range all {
			c := Course{part: from}
			e.do(&c)
			require.Equal(t, e.to[i], c.part, "%s from %d", name, from)
			require.Equal(t, e.says[i], c.verdict, "%s from %d", name, from)
			require.Equal(t, from, (&Course{part: from}).Finish())
		}
	}
	c := Course{Origin: Store}
	require.False(t, c.RefusedNow(), "the handlers before this library's are given it by this library")
	require.Equal(t, silent, c.verdict)
	c = Course{}
	require.True(t, c.RefusedNow())
	c.Leave()
	c.Tell()
	require.False(t, c.Give(), "what is behind a part that was left is left too")
	require.Equal(t, Withheld, c.part)
}

func TestWorstOfAllPartsStays(t *testing.T) {
	c := Course{}
	c.Leave()
	c.Unheard()
	c.Refused()
	c.Panicked("panic")
	c.Nobody()
	c.Took()
	require.True(t, c.Left())
	require.Equal(t, whyNobody, c.WhyKept(), "the last")

	c.Judge()
	c.SetAside()
	c.FoundBefore()
	require.True(t, c.Judged() && c.Aside())
	c = Course{}
	c.SetAside()
	require.True(t, c.Aside() && !c.Judged())
	c = Course{}
	c.FoundBefore()
	require.False(t, c.Aside())

	c.Unreadable("no key", true)
	c.OldCounter()
	c.Begin(true)
	require.Equal(t, unreadable, c.reading)
	require.True(t, c.Hidden())
	c.Unreadable("", false)
	require.Equal(t, "no key", c.WhyUnread(), "it stays known")
	require.False(t, c.Hidden())
	c = Course{}
	c.Unreadable("", false)
	require.Equal(t, whyUnread, c.WhyUnread())

	c.Survived("panic")
	require.True(t, c.Untried())
	c.Unsaved()
	require.False(t, c.Untried(), "it is at the service, and not due here")
}

func TestSayOfTheHandlersIsKnown(t *testing.T) {
	for name, x := range map[string]struct {
		do                 func(*Course)
		decided, explained bool
	}{
		"nothing happened":               {func(*Course) {}, false, false},
		"a part was taken":               {func(c *Course) { c.Begin(false); c.Tell(); c.Give(); c.Finish(); c.Begin(false) }, false, false},
		"the handlers have it":           {func(c *Course) { c.Tell(); c.Give() }, true, true},
		"it is withheld":                 {tell, true, false},
		"one refused it":                 {(*Course).Refused, true, false},
		"one panicked before":            {func(c *Course) { c.Panicked("panic"); c.Begin(false) }, true, false},
		"there was none":                 {(*Course).Unheard, true, false},
		"it was left":                    {(*Course).Leave, true, false},
		"it is set aside":                {(*Course).SetAside, true, false},
		"it was found before":            {(*Course).FoundBefore, true, false},
		"it cannot be read":              {func(c *Course) { c.Unreadable("", false) }, false, true},
		"it is handed over from here":    {func(c *Course) { c.Origin = Store }, false, true},
		"it was decrypted before":        {(*Course).OldCounter, false, false},
		"whatsmeow panicked at it first": {func(c *Course) { c.Survived("panic") }, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			var c Course
			x.do(&c)
			require.Equal(t, x.decided, c.Decided())
			require.Equal(t, x.explained, c.Explained())
		})
	}
}

func TestNewsletterThatEarlierHandlersDidNotTakeIsNoticed(t *testing.T) {
	away, deaf := up, up
	away.Admits, deaf.Hears = false, false
	for name, x := range map[string]struct {
		origin Origin
		do     func(*Course)
		sight  Sight
		want   bool
	}{
		"acknowledged early":          {Early, func(*Course) {}, away, true},
		"one panicked":                {Newsletter, func(c *Course) { c.Panicked("panic") }, away, true},
		"not acknowledged":            {Newsletter, func(*Course) {}, up, true},
		"acknowledged":                {Newsletter, (*Course).Acknowledged, up, false},
		"not seen whether":            {Newsletter, func(*Course) {}, deaf, false},
		"not acknowledged at the end": {Newsletter, func(*Course) {}, away, false},
		"this library's was told":     {Early, tell, up, false},
		"left":                        {Early, (*Course).Leave, up, false},
		"no newsletter":               {Encrypted, func(c *Course) { c.Panicked("panic") }, up, false},
		"from the store":              {Store, func(c *Course) { c.Panicked("panic") }, up, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := Course{Origin: x.origin}
			x.do(&c)
			require.Equal(t, x.want, c.Unnoticed(x.sight))
		})
	}
}

func TestKeptPartThatIsNotTakenSaysWhy(t *testing.T) {
	for name, x := range map[string]struct {
		do     func(*Course)
		failed bool
		why    string
		want   bool
	}{
		"taken":                        {func(c *Course) { c.Tell(); c.Give() }, false, "", false},
		"refused":                      {func(c *Course) { c.Tell(); c.Give() }, true, WhyRefused, true},
		"panicked":                     {func(c *Course) { c.Tell(); c.Give(); c.Panicked("panic") }, false, "panic", true},
		"panicked at the part before":  {func(c *Course) { c.Panicked("panic"); c.BeginStored(); c.Tell(); c.Give() }, false, "", false},
		"there is no handler":          {func(c *Course) { c.Tell(); c.Unheard() }, true, WhyUnheard, true},
		"not even this library's":      {func(*Course) {}, false, WhyUnheard, true},
		"the connection has ended":     {func(c *Course) { c.Tell(); c.Leave() }, true, "", true},
		"told of the part before only": {func(c *Course) { c.Tell(); c.Give(); c.BeginStored() }, false, WhyUnheard, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := Course{Origin: Store}
			c.BeginStored()
			x.do(&c)
			require.Equal(t, x.want, c.Untaken(x.failed))
			require.Equal(t, x.why, c.untaken)
		})
	}
}

func tell(c *Course) { c.Tell() }
