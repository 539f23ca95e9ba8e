(() => {
  const form = document.querySelector('.filter'), box = form.querySelector('input'), said = form.querySelector('output');
  let blocks, total = 0;
  const read = () => [...document.querySelectorAll('.block')].map(part => {
    const rows = [...part.querySelectorAll('tbody tr')];
    total += rows.length;
    return { part, rows, words: rows.map(r => r.firstElementChild.firstElementChild.textContent.toLowerCase()), stale: '' };
  });
  const show = (block, wanted) => {
    if (block.stale === wanted) return;
    block.stale = wanted;
    block.rows.forEach((row, i) => { row.hidden = !block.words[i].includes(wanted); });
  };
  const seen = new IntersectionObserver(found => found.forEach(f => {
    if (f.isIntersecting) show(blocks.find(b => b.part === f.target), box.value.toLowerCase());
  }), { rootMargin: '1000px' });
  const ready = () => {
    if (blocks) return;
    blocks = read();
    blocks.forEach(b => seen.observe(b.part));
    form.dataset.ready = blocks.length;
  };
  const apply = () => {
    const wanted = box.value.toLowerCase();
    ready();
    let count = 0, shown = 0;
    for (const block of blocks) {
      const hits = block.words.reduce((n, w) => n + w.includes(wanted), 0);
      count += hits;
      block.part.hidden = !hits;
      block.part.style.containIntrinsicSize = `auto ${hits * 64}px`;
      if (hits && (shown += hits) <= 200 || shown === hits) show(block, wanted);
    }
    said.textContent = `${count.toLocaleString('en')} of ${total.toLocaleString('en')}`;
  };
  form.hidden = false;
  box.addEventListener('input', apply);
  requestIdleCallback(ready);
})();
